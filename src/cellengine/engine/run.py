"""What all roads through `infer` share: the result, the clock, who is told of progress, what is recorded."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from cellengine.engine.options import InferOptions
from cellengine.engine.plan import Plan
from cellengine.engine.scale import Intensities
from cellengine.engine.scene import Scene
from cellengine.engine.table import Table
from cellengine.errors import InputError
from cellengine.io import ImageSource

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What `infer` found in one source."""

    labels: Array
    """the axes of the source without C (and T where one time point was chosen). uint32: 0 is background, objects are
    numbered through the whole source. Of a semantic model uint8: numbers of classes in the order of its spec"""
    axes: str
    """axes of `labels`"""
    objects: Table
    """one row an object: column name -> values. Of a semantic model one row a class and picture"""
    run: dict[str, Any]
    """plain data: shapes, counts, seconds per stage, warnings"""
    shown: tuple[Scene, Array]
    """the middle picture and its labels: what an overlay shows"""


@dataclass(slots=True)
class Clock:
    """Seconds by stage. Stages overlap, so their sum may exceed the wall time."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`; any thread may."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - begun})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add times by stage that were measured elsewhere; any thread may."""
        with self._lock:
            for stage, taken in seconds.items():
                self.seconds[stage] += taken


@dataclass(frozen=True, slots=True)
class Progress:
    """Who is told how far a run is."""

    begin: Callable[[str, int], None] = lambda name, tiles: None
    """a source begins: its name and number of tiles"""
    advance: Callable[[int], None] = lambda tiles: None
    """so many tiles more are done"""


def label_axes(source: ImageSource, options: InferOptions) -> tuple[str, tuple[int, ...]]:
    """Axes and shape of the labels of a source: its own without C, and without T where one time point was chosen."""
    dropped = "C" if options.timepoint is None else "CT"
    axes = "".join(a for a in source.axes if a not in dropped)
    return axes, tuple(n for a, n in zip(source.axes, source.shape, strict=True) if a in axes)


def describe_run(
    source: ImageSource, plans: Sequence[Plan], objects: int, unfit: int, clock: Clock, seconds: float
) -> dict[str, Any]:
    """What is recorded of one source: plain data."""
    return {
        "shape": list(source.shape),
        "axes": source.axes,
        "dtype": str(source.dtype),
        "voxel_size_um": source.voxel_size_um and list(source.voxel_size_um),
        "network_shape": list(plans[0].shape),
        "pictures": len(plans),
        "tile": list(plans[0].tile),
        "halo": list(plans[0].halo),
        "tiles": sum(len(plan.grid) for plan in plans),
        "objects": objects,
        "not_finite": unfit,
        "seconds": {**{k: round(v, 4) for k, v in clock.seconds.items()}, "total": round(seconds, 4)},
        "voxels_per_s": round(sum(prod(plan.shape) for plan in plans) / seconds),
    }


def check_finite(source: ImageSource, intensities: Intensities, options: InferOptions) -> int:
    """Number of values that are no number; an error unless the user said what to do with them."""
    if options.nan == "error":
        raise InputError(
            f"{source.name}: found {intensities.not_finite} values that are NaN or infinite, expected numbers; "
            "mend the file, or take them as 0 with --nan zero."
        )
    return intensities.not_finite
