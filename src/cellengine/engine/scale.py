"""The intensity scale of one picture: measured once over the whole picture, never per tile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import numpy as np

from cellengine.engine.scene import Scene
from cellengine.geometry import Cells
from cellengine.ops.normalize import ChannelStatistics, Scale, measure, range_scale
from cellengine.spec import Normalize

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Intensities:
    """What was measured of a picture, and the scale that follows."""

    scale: Scale
    statistics: tuple[ChannelStatistics, ...]

    @property
    def not_finite(self) -> int:
        """Number of values that are NaN or infinite."""
        return sum(s.nan + s.infinite for s in self.statistics)

    @property
    def constant(self) -> bool:
        """Whether there is nothing to see: every channel holds one value."""
        return all(s.count == 0 or s.minimum == s.maximum for s in self.statistics)


BLOCK_VOXELS = 1 << 22
"""voxels read at once while a picture is measured"""
MOST_VOXELS = 1 << 24
"""of a chunk that is read as a whole"""


def measure_scene(scene: Scene, config: Normalize) -> Intensities:
    """Measure a whole picture, chunk by chunk. A channel that feeds the model several times is measured once."""
    unique = tuple(dict.fromkeys(scene.channels))
    chunks = tuple(c for a, c in zip(scene.source.axes, scene.source.chunks, strict=True) if a in scene.axes)
    if prod(chunks) > MOST_VOXELS:
        chunks = (1,) * len(chunks)  # larger than what may be read at once
    cells = Cells.of_chunks(scene.shape, chunks, BLOCK_VOXELS // len(unique))

    def blocks() -> Iterator[Array]:
        return (scene.read_channels(cell, unique) for cell in cells)

    found = measure_scale(blocks, len(unique), scene.source.dtype, config)
    order = [unique.index(c) for c in scene.channels]
    scale = found.scale
    factor, offset = ([values[i] for i in order] for values in (scale.factor, scale.offset))
    return Intensities(Scale(tuple(offset), tuple(factor), scale.low, scale.high), found.statistics)


def measure_scale(
    blocks: Callable[[], Iterable[Array]], channels: int, dtype: np.dtype[Any], config: Normalize
) -> Intensities:
    """Measure a picture and derive its scale; `blocks()` starts a sweep over blocks of shape (C, ...).

    The result does not depend on how the picture is cut into blocks.
    """
    percentiles = (config.low, config.high) if config.method == "percentile" else ()
    statistics = measure(blocks, channels, dtype, percentiles)
    if config.method == "constant":
        ranges = [(config.low, config.high)] * channels
    elif config.method == "zscore":
        ranges = [(s.mean, s.mean + s.std) for s in statistics]
    elif config.method == "minmax":
        ranges = [(s.minimum, s.maximum) for s in statistics]
    else:
        # a few bright cells on a flat background: both percentiles may be background, then the extremes decide
        low, high = float(config.low), float(config.high)
        ranges = [
            (s.percentiles[low], s.percentiles[high])
            if s.percentiles[high] > s.percentiles[low]
            else (s.minimum, s.maximum)
            for s in statistics
        ]
    if not config.per_channel and config.method != "constant":
        ranges = [(min(a for a, _ in ranges), max(b for _, b in ranges))] * channels
    return Intensities(range_scale(ranges, clip=config.clip or (-inf, inf)), statistics)
