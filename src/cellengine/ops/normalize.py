"""Intensity: the scale that a network wants, from what was measured, and its application in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.errors import InputError
from cellengine.ops.statistics import ChannelStatistics, Measurement, measure

__all__ = [
    "ChannelStatistics",
    "Measurement",
    "Scale",
    "measure",
    "normalize_into",
    "range_scale",
]


@dataclass(frozen=True, slots=True)
class Scale:
    """How intensities become network input: clip((x - offset) * factor, low, high), one entry per channel."""

    offset: tuple[float, ...]
    factor: tuple[float, ...]
    low: float = -inf
    """lower clip after scaling"""
    high: float = inf
    """upper clip after scaling"""

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.offset)


def range_scale(ranges: Iterable[tuple[float, float]], *, clip: tuple[float, float] = (-inf, inf)) -> Scale:
    """The scale that sends the lower end of each channel's range to 0 and the upper end to 1.

    A channel whose range is empty becomes all 0 rather than a division by zero: nothing is to be found in it.
    """
    ranges = list(ranges)
    factors = tuple(1.0 / (b - a) if b > a else 0.0 for a, b in ranges)
    return Scale(tuple(a for a, _ in ranges), factors, *clip)


def normalize_into(block: NDArray[Any], scale: Scale, out: NDArray[np.float32]) -> None:
    """Write clip((block - offset) * factor) into `out`, both of shape (C, *spatial), in one pass.

    `out` is float32 and may be any view whose rows the caller owns; 8/16-bit integers and float32 are read as they
    are, other types go through float32. Arithmetic is float32. The interpreter lock is released: any number of
    threads may call this on different outputs. NaN stays NaN.
    """
    if block.shape != out.shape or block.shape[0] != scale.channels:
        raise InputError(
            f"Cannot scale a block of shape {block.shape} into {out.shape}, {scale.channels} channels: shapes differ."
        )
    if block.dtype not in (np.uint8, np.uint16, np.int16, np.float32) or not block.dtype.isnative:
        block = block.astype(np.float32)
    for channel in range(scale.channels):
        source, target = np.atleast_2d(block[channel]), np.atleast_2d(out[channel])
        offset, factor = np.float32(scale.offset[channel]), np.float32(scale.factor[channel])
        low, high = np.float32(scale.low), np.float32(scale.high)
        for plane in np.ndindex(source.shape[:-2]):
            _scale_plane(source[plane], offset, factor, low, high, target[plane])


@njit(nogil=True, cache=True, error_model="numpy")
def _scale_plane(
    source: NDArray[Any],
    offset: np.float32,
    factor: np.float32,
    low: np.float32,
    high: np.float32,
    out: NDArray[np.float32],
) -> None:
    for y in range(source.shape[0]):
        for x in range(source.shape[1]):
            value = (np.float32(source[y, x]) - offset) * factor
            value = low if value < low else value
            out[y, x] = high if value > high else value
