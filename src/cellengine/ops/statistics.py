"""Exact statistics of a picture of any size, block by block.

Nothing here depends on how the picture is cut into blocks: integers are counted in a histogram, and the sums of floats
are kept exactly, so a mean is the same number for any tiling. No files, no models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.errors import InputError

_BINS = 65536
_NARROW = (np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.uint16), np.dtype(np.int16))


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What one channel holds. Everything but the counts of bad values is over the finite values alone."""

    count: int
    """finite values"""
    nan: int
    infinite: int
    minimum: float
    maximum: float
    mean: float
    std: float
    """population standard deviation, as numpy.std"""
    percentiles: dict[float, float]
    """asked percentile -> value, linear interpolation as numpy.percentile"""


class Measurement:
    """Exact statistics of a picture that comes in blocks of shape (C, ...), in any order and of any size.

    Integers of 8 and 16 bit take one sweep over the blocks. Everything else is read as float32 and takes one sweep, or
    two when percentiles are asked: the first finds in which 1/65536 of the number line each percentile lies, the second
    counts inside. Memory: 0.5 MB a channel (plus 0.5 MB for each float percentile), whatever the picture's size.

        measurement = Measurement(channels, dtype, (1, 99.8))
        while True:
            for block in blocks():
                measurement.add(block)
            if not measurement.next_sweep():
                break
        statistics = measurement.finish()
    """

    def __init__(self, channels: int, dtype: np.dtype[Any] | type, percentiles: Iterable[float] = ()) -> None:
        self.percentiles = tuple(float(p) for p in percentiles)
        for p in self.percentiles:
            if not 0 <= p <= 100:
                raise ValueError(f"A percentile lies between 0 and 100, not at {p}.")
        dtype = np.dtype(dtype)
        self._narrow = dtype in _NARROW
        self._dtype = dtype if self._narrow else np.dtype(np.float32)
        self._channels: list[_Integers | _Floats] = [
            _Integers(self.percentiles) if self._narrow else _Floats(self.percentiles) for _ in range(channels)
        ]

    def add(self, block: NDArray[Any]) -> None:
        """Count a block of shape (C, ...). Thread safe only when calls do not overlap."""
        if block.ndim == 0 or block.shape[0] != len(self._channels):
            raise InputError(
                f"A block of shape {block.shape} was given where {len(self._channels)} channels were expected first."
            )
        block = block.astype(self._dtype, copy=False)
        for values, channel in zip(block, self._channels, strict=True):
            channel.add(np.ascontiguousarray(values).reshape(-1))

    def next_sweep(self) -> bool:
        """To be called after every block was added once; True when the same blocks are needed once more."""
        more = [channel.next_sweep() for channel in self._channels]
        return any(more)

    def finish(self) -> tuple[ChannelStatistics, ...]:
        """The statistics, one entry per channel."""
        return tuple(channel.finish() for channel in self._channels)


class _Integers:
    """One channel of 8 or 16 bit integers: a histogram says it all."""

    def __init__(self, percentiles: tuple[float, ...]) -> None:
        self.percentiles = percentiles
        self.histogram = np.zeros(_BINS, np.int64)
        self.offset = 0

    def add(self, values: NDArray[Any]) -> None:
        if values.dtype.kind == "i":
            self.offset = int(np.iinfo(values.dtype).min)
            # flipping the sign bit turns signed order into unsigned order without widening
            unsigned = values.view(f"u{values.dtype.itemsize}")
            values = unsigned ^ unsigned.dtype.type(-self.offset)
        _count(values, self.histogram)

    def next_sweep(self) -> bool:
        return False

    def finish(self) -> ChannelStatistics:
        count = int(self.histogram.sum())
        if count == 0:
            return _nothing(0, 0, self.percentiles)
        levels = np.flatnonzero(self.histogram)
        number, value = self.histogram[levels], levels + self.offset
        total, squares = int(number @ value), value * value
        # in two halves of 16 bits: the sum of whole squares would pass 63 bits beyond 2^31 voxels
        square = (int(number @ (squares >> 16)) << 16) + int(number @ (squares & 0xFFFF))
        ends = np.cumsum(self.histogram[levels])

        def order(rank: int) -> float:
            return float(value[int(np.searchsorted(ends, rank, side="right"))])

        return _statistics(count, 0, 0, float(value[0]), float(value[-1]), Fraction(total), Fraction(square),
                           {p: _interpolate(order, count, p) for p in self.percentiles})  # fmt: skip


class _Floats:
    """One channel of float32: exact sums by exponent, and order statistics by histograms of an ordered integer key."""

    def __init__(self, percentiles: tuple[float, ...]) -> None:
        self.percentiles = percentiles
        self.sweep = 0
        self.coarse = np.zeros(_BINS, np.int64)
        self.sums = np.zeros((256, 3), np.int64)
        self.bad = np.zeros(2, np.int64)
        self.extremes = np.array([0xFFFFFFFF, 0], np.uint32)
        self.ends = self.coarse
        self.fine: dict[int, NDArray[np.int64]] = {}

    def add(self, values: NDArray[np.float32]) -> None:
        bits = values.view(np.uint32)
        if self.sweep == 0:
            _sum_floats(bits, self.coarse, self.sums, self.bad, self.extremes)
            return
        for coarse, histogram in self.fine.items():
            _count_fine(bits, np.uint32(coarse), histogram)

    def next_sweep(self) -> bool:
        self.sweep += 1
        if self.sweep == 1:
            self.ends = np.cumsum(self.coarse)
            count = int(self.ends[-1])
            ranks = {rank for p in self.percentiles if count for rank in _neighbours(count, p)[:2]}
            self.fine = {self._coarse_of(rank): np.zeros(_BINS, np.int64) for rank in ranks}
        return self.sweep == 1 and bool(self.fine)

    def _coarse_of(self, rank: int) -> int:
        return int(np.searchsorted(self.ends, rank, side="right"))

    def _order(self, rank: int) -> float:
        coarse = self._coarse_of(rank)
        below = int(self.ends[coarse - 1]) if coarse else 0
        fine = int(np.searchsorted(np.cumsum(self.fine[coarse]), rank - below, side="right"))
        return _from_key((coarse << 16) | fine)

    def finish(self) -> ChannelStatistics:
        nan, infinite = int(self.bad[0]), int(self.bad[1])
        count = int(self.coarse.sum())
        if count == 0:
            return _nothing(nan, infinite, self.percentiles)
        if self.percentiles and self.sweep < 2:
            raise ValueError("A float picture is read twice: call next_sweep() and add every block once more.")
        total, square = Fraction(0), Fraction(0)
        for exponent in map(int, np.flatnonzero(self.sums[:255].any(axis=1))):
            unit = Fraction(2) ** (max(exponent, 1) - 150)
            mantissas, low, high = (int(s) for s in self.sums[exponent])
            total += mantissas * unit
            square += (low + (high << 24)) * unit * unit
        minimum, maximum = (_from_key(int(key)) for key in self.extremes)
        return _statistics(count, nan, infinite, minimum, maximum, total, square,
                           {p: _interpolate(self._order, count, p) for p in self.percentiles})  # fmt: skip


def measure(
    blocks: Callable[[], Iterable[NDArray[Any]]],
    channels: int,
    dtype: np.dtype[Any] | type,
    percentiles: Iterable[float] = (),
) -> tuple[ChannelStatistics, ...]:
    """Statistics of a picture; `blocks()` starts a new sweep over its blocks, each of shape (C, ...)."""
    measurement = Measurement(channels, dtype, percentiles)
    while True:
        for block in blocks():
            measurement.add(block)
        if not measurement.next_sweep():
            return measurement.finish()


def _from_key(key: int) -> float:
    """The float32 that `_key` maps to `key`."""
    bits = key ^ (0x80000000 if key & 0x80000000 else 0xFFFFFFFF)
    return float(np.array([bits], np.uint32).view(np.float32)[0])


def _nothing(nan: int, infinite: int, percentiles: tuple[float, ...]) -> ChannelStatistics:
    none = float("nan")
    return ChannelStatistics(0, nan, infinite, none, none, none, none, dict.fromkeys(percentiles, none))


def _statistics(
    count: int,
    nan: int,
    infinite: int,
    minimum: float,
    maximum: float,
    total: Fraction,
    square: Fraction,
    percentiles: dict[float, float],
) -> ChannelStatistics:
    mean = total / count
    variance = square / count - mean * mean
    return ChannelStatistics(
        count, nan, infinite, minimum, maximum, float(mean), sqrt(float(variance)), percentiles
    )  # fmt: skip


def _neighbours(count: int, percentile: float) -> tuple[int, int, float]:
    """The two ranks that a percentile lies between, and how far it is from the first to the second."""
    position = (count - 1) * (percentile / 100.0)
    lower = min(int(position), count - 1)
    return lower, min(lower + 1, count - 1), position - lower


def _interpolate(order: Callable[[int], float], count: int, percentile: float) -> float:
    lower, upper, share = _neighbours(count, percentile)
    a, b = order(lower), order(upper)
    # the form that numpy uses, so that both ends are met exactly and rounding agrees
    value = a + (b - a) * share if share < 0.5 else b - (b - a) * (1 - share)
    return value if isfinite(value) else a


@njit(nogil=True, cache=True, error_model="numpy")
def _count(values: NDArray[Any], histogram: NDArray[np.int64]) -> None:
    # four histograms in turn: runs of one value would otherwise wait for the last increment of the same bin
    part = np.zeros((3, histogram.size), np.int64)
    n = values.size - values.size % 4
    for i in range(0, n, 4):
        histogram[values[i]] += 1
        part[0, values[i + 1]] += 1
        part[1, values[i + 2]] += 1
        part[2, values[i + 3]] += 1
    for i in range(n, values.size):
        histogram[values[i]] += 1
    for level in range(histogram.size):
        histogram[level] += part[0, level] + part[1, level] + part[2, level]


@njit(nogil=True, cache=True, error_model="numpy")
def _key(bits: np.uint32) -> np.uint32:
    """Map float32 bits to an unsigned integer of the same order."""
    return np.uint32(bits ^ np.uint32(0xFFFFFFFF)) if bits >> 31 else np.uint32(bits ^ np.uint32(0x80000000))


@njit(nogil=True, cache=True, error_model="numpy")
def _sum_floats(
    bits: NDArray[np.uint32],
    coarse: NDArray[np.int64],
    sums: NDArray[np.int64],
    bad: NDArray[np.int64],
    extremes: NDArray[np.uint32],
) -> None:
    for i in range(bits.size):
        b = bits[i]
        if b == np.uint32(0x80000000):
            b = np.uint32(0)  # minus zero is zero
        exponent = (b >> 23) & 0xFF
        mantissa = np.int64(b & 0x7FFFFF)
        if exponent == 255:
            bad[0 if mantissa else 1] += 1
            continue
        if exponent:
            mantissa |= 0x800000
        key = _key(b)
        extremes[0] = min(extremes[0], key)
        extremes[1] = max(extremes[1], key)
        coarse[key >> 16] += 1
        sums[exponent, 0] += -mantissa if b >> 31 else mantissa
        square = mantissa * mantissa
        sums[exponent, 1] += square & 0xFFFFFF
        sums[exponent, 2] += square >> 24


@njit(nogil=True, cache=True, error_model="numpy")
def _count_fine(bits: NDArray[np.uint32], coarse: np.uint32, histogram: NDArray[np.int64]) -> None:
    for i in range(bits.size):
        b = bits[i]
        if b == np.uint32(0x80000000):
            b = np.uint32(0)
        key = _key(b)
        if key >> 16 == coarse and (b >> 23) & 0xFF != 255:
            histogram[key & 0xFFFF] += 1
