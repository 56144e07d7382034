"""`infer`, the whole story of one source: pictures, scale, tiles, scores, labels, measurements."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from cellengine.engine.flow import Stop
from cellengine.engine.label import label, on_picture
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import Plan, plan_picture, ram_limit
from cellengine.engine.predict import Scores, predict
from cellengine.engine.scale import Intensities, measure_scene
from cellengine.engine.scene import Scene, scenes
from cellengine.engine.session import Session
from cellengine.engine.table import Table, join_tables, measure_picture
from cellengine.errors import InputError, ResourceError
from cellengine.io import ImageSource, MemorySource

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What `infer` found in one source."""

    labels: Array
    """uint32; the axes of the source without C (and T where one time point was chosen). 0 is background, objects are
    numbered through the whole source"""
    axes: str
    """axes of `labels`"""
    objects: Table
    """one row an object: column name -> values"""
    run: dict[str, Any]
    """plain data: shapes, counts, seconds per stage, warnings"""
    shown: tuple[Scene, Array]
    """the middle picture and its labels: what an overlay shows"""


@dataclass(slots=True)
class Clock:
    """Seconds by stage. Stages overlap, so their sum may exceed the wall time."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`; any thread may."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - begun


@dataclass(frozen=True, slots=True)
class Progress:
    """Who is told how far a run is."""

    begin: Callable[[str, int], None] = lambda name, tiles: None
    """a source begins: its name and number of tiles"""
    advance: Callable[[int], None] = lambda tiles: None
    """so many tiles more are done"""


def infer_source(
    source: ImageSource,
    session: Session,
    options: InferOptions,
    stop: Stop | None = None,
    progress: Progress | None = None,
) -> Result:
    """Label and measure every picture in `source` with the model of `session`.

    Labelling and measuring a picture overlap with the network's work on the next one. Raises InputError for what the
    model cannot take, Interrupted when `stop` says so.
    """
    stop, progress, clock = stop or Stop(), progress or Progress(), Clock()
    begun = time.perf_counter()
    pictures = scenes(source, session.spec, options)
    plans = [plan_picture(scene.seen.shape, session, options) for scene in pictures]
    _check_memory(source, pictures, plans, session, ram_limit(options))
    progress.begin(source.name, sum(len(plan.tiles) for plan in plans))
    labels = np.zeros((len(pictures), *pictures[0].shape), np.uint32)
    tables: list[Table] = []
    unfit = 0

    def finish(index: int, scores: Scores) -> None:
        with clock("label"):
            found = label(scores, session.spec.decoder, session.spec.voxel_size_um)
            labels[index] = on_picture(found, pictures[index].grid)
        with clock("measure"):
            tables.append(measure_picture(labels[index], pictures[index], scores, session.spec))

    with ThreadPoolExecutor(1, thread_name_prefix="finish") as pool:
        pending: Future[None] | None = None
        for index, (scene, plan) in enumerate(zip(pictures, plans, strict=True)):
            with clock("scale"):
                intensities = measure_scene(scene.seen, session.spec.normalize)
            if intensities.not_finite:
                unfit += check_finite(source, intensities, options)
                scene = pictures[index] = replace(scene, fill=True)
            with clock("network"):
                scores = _predict(scene.seen, session, plan, intensities, stop, progress)
            if pending is not None:
                pending.result()
            pending = pool.submit(finish, index, scores)
        if pending is not None:
            pending.result()
    objects = join_tables(tables)
    number_through(labels, [len(t["label"]) for t in tables])
    run = describe_run(source, plans, len(objects["label"]), unfit, clock, time.perf_counter() - begun)
    axes, shape = label_axes(source, options)
    middle = len(pictures) // 2
    return Result(labels.reshape(shape), axes, objects, run, (pictures[middle], labels[middle]))


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
        "tiles": sum(len(plan.tiles) for plan in plans),
        "objects": objects,
        "not_finite": unfit,
        "seconds": {**{k: round(v, 4) for k, v in clock.seconds.items()}, "total": round(seconds, 4)},
        "voxels_per_s": round(sum(prod(plan.shape) for plan in plans) / seconds),
    }


def infer_array(image: Array, session: Session, options: InferOptions | None = None) -> Result:
    """Label one picture in memory, (C, *spatial), its channels in the model's order or just one.

    It is taken to have the model's voxel size.
    """
    spec = session.spec
    chosen = tuple(str(c) for c in range(len(image))) if len(image) > 1 else ()
    options = replace(options or InferOptions(), channel=chosen)
    return infer_source(MemorySource(image, "C" + spec.axes, voxel_size_um=spec.voxel_size_um), session, options)


def _predict(
    scene: Scene, session: Session, plan: Plan, intensities: Intensities, stop: Stop, progress: Progress
) -> Scores:
    if intensities.constant:
        # nothing to see: no network needs to be asked, whatever it was trained on
        progress.advance(len(plan.tiles))
        return {o.name: np.zeros((o.channels, *plan.shape), np.uint16) for o in session.spec.outputs}
    return predict(scene, session, plan, intensities.scale, stop, progress.advance)


def memory_needed(source: ImageSource, pictures: Sequence[Scene], plans: Sequence[Plan], session: Session) -> int:
    """Bytes that labelling whole pictures takes: labels of all of them, and the work on two."""
    voxels = max(prod(scene.shape) for scene in pictures)
    channels = source.shape[source.axes.index("C")] if "C" in source.axes else 1
    outputs = sum(output.channels for output in session.spec.outputs)
    # scores as 16-bit numbers for two pictures; labels, raw values and float scores of the one being labelled
    work = prod(plans[0].shape) * (2 * 2 * outputs + 4 * outputs + 8) + voxels * (4 + channels * source.dtype.itemsize)
    if not pictures[0].grid.same:
        # labels at the model's voxel size, and labels and scores on their way back
        work += 4 * prod(plans[0].shape) + 8 * voxels
    tiles = session.concurrency * prod(plans[0].tile) * plans[0].batch * 4 * (len(session.spec.channels) + outputs)
    return 4 * voxels * len(pictures) + work + tiles


def _check_memory(
    source: ImageSource, pictures: Sequence[Scene], plans: Sequence[Plan], session: Session, allowed: int
) -> None:
    """Refuse what cannot fit before anything is allocated."""
    needed = memory_needed(source, pictures, plans, session)
    voxels = max(prod(scene.shape) for scene in pictures)
    if needed > allowed:
        raise ResourceError(
            f"{source.name}: labelling {voxels * len(pictures):,} voxels needs about {needed / 1e9:.1f} GB of memory, "
            f"{allowed / 1e9:.1f} GB may be used: take a smaller piece, or --timepoint for one of a series."
        )


def check_finite(source: ImageSource, intensities: Intensities, options: InferOptions) -> int:
    """Number of values that are no number; an error unless the user said what to do with them."""
    if options.nan == "error":
        raise InputError(
            f"{source.name}: found {intensities.not_finite} values that are NaN or infinite, expected numbers; "
            "mend the file, or take them as 0 with --nan zero."
        )
    return intensities.not_finite


def number_through(labels: Array, counts: Sequence[int]) -> None:
    """Shift the labels of each picture so that no two objects of a source share one."""
    offset = 0
    for picture, count in zip(labels, counts, strict=True):
        if offset and count:
            np.add(picture, np.uint32(offset), out=picture, where=picture > 0)
        offset += count
