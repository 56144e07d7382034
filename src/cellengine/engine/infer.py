"""`infer`, the whole story of one source: pictures, scale, tiles, scores, labels, measurements."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from cellengine.engine.classify import CellClassifier, check_classifier
from cellengine.engine.detect import detect
from cellengine.engine.flow import Stop
from cellengine.engine.label import label, on_picture
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import Plan, plan_picture, ram_limit
from cellengine.engine.predict import Scores, predict
from cellengine.engine.run import Clock, Progress, Result, check_finite, describe_run, label_axes
from cellengine.engine.scale import Intensities, measure_scene
from cellengine.engine.scene import Scene, scenes
from cellengine.engine.semantic import map_classes
from cellengine.engine.session import Session, batches_on_a_device
from cellengine.engine.table import Table, join_tables, measure_detected, measure_picture
from cellengine.errors import ResourceError, UsageError
from cellengine.geometry import Region
from cellengine.io import ImageSource, MemorySource
from cellengine.io.sink import MemorySink
from cellengine.ops.detected import Detected, join_detected, number_detected
from cellengine.ops.detections import paste_masks
from cellengine.spec import ArgMax, ClassOf, Detections

__all__ = ["Progress", "Result", "infer_array", "infer_source"]

Array = np.ndarray[Any, Any]


def infer_source(
    source: ImageSource,
    session: Session,
    options: InferOptions,
    stop: Stop | None = None,
    progress: Progress | None = None,
    then: Session | None = None,
) -> Result:
    """Label and measure every picture in `source` with the model of `session`; `then` classifies each object found.

    A semantic model gives every voxel its class, any other one finds objects. Raises InputError for what the model
    cannot take, Interrupted when `stop` says so.
    """
    stop, progress = stop or Stop(), progress or Progress()
    spec = session.spec
    if isinstance(spec.decoder, ClassOf):
        raise UsageError(
            f"{spec.name} classifies crops and finds no cells: give it to --then, behind a model that does, or run "
            "cellengine infer on a folder of crops."
        )
    if then is not None:
        check_classifier(then.spec, spec)
    if isinstance(spec.decoder, ArgMax):
        return _classes(source, session, options, stop, progress)
    return _objects(source, session, options, stop, progress, then)


def _classes(source: ImageSource, session: Session, options: InferOptions, stop: Stop, progress: Progress) -> Result:
    """Tiles to classes: nothing but the class map is kept."""
    axes, shape = label_axes(source, options)
    sink = MemorySink(shape, np.dtype(np.uint8))
    found = map_classes(source, session, options, stop, progress, sink)
    middle = found.pictures[len(found.pictures) // 2]
    shown = sink.array[middle.place(axes, Region.whole(middle.shape)).slices].reshape(middle.shape)
    return Result(sink.array, axes, found.table, found.run, (middle, shown))


def _objects(
    source: ImageSource,
    session: Session,
    options: InferOptions,
    stop: Stop,
    progress: Progress,
    then: Session | None,
) -> Result:
    """Tiles to scores to labels; labelling and measuring a picture overlap with the network's work on the next one."""
    clock = Clock()
    begun = time.perf_counter()
    pictures = scenes(source, session.spec, options)
    plans = [plan_picture(scene.seen.shape, session, options) for scene in pictures]
    _check_memory(source, pictures, plans, session, ram_limit(options))
    progress.begin(source.name, sum(len(plan.grid) for plan in plans))
    cells = None if then is None else CellClassifier(source, then, session.spec, options, stop)
    labels = np.zeros((len(pictures), *pictures[0].shape), np.uint32)
    tables: list[Table] = []
    unfit = 0

    def finish(index: int, scores: Scores | Detected) -> None:
        scene = pictures[index]
        if isinstance(scores, Detected):
            with clock("label"):
                pasted = paste_masks(scores.boxes, scores.masks, scene.seen.shape, scores.scores)  # type: ignore[arg-type]
                labels[index], listed = number_detected(scene.grid.whole_to_image(pasted), scores)
            with clock("measure"):
                rows = measure_detected(labels[index], listed, scene, session.spec)
        else:
            with clock("label"):
                found = label(scores, session.spec.decoder, session.spec.voxel_size_um)
                labels[index] = on_picture(found, scene.grid)
            with clock("measure"):
                rows = measure_picture(labels[index], scene, scores, session.spec)
        if cells is not None:
            with clock("classify"):
                rows = cells.classify(index, rows)
        tables.append(rows)

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
    run |= {} if cells is None else cells.record()
    axes, shape = label_axes(source, options)
    middle = len(pictures) // 2
    return Result(labels.reshape(shape), axes, objects, run, (pictures[middle], labels[middle]))


def infer_array(image: Array, session: Session, options: InferOptions | None = None) -> Result:
    """Label one picture in memory, (C, *spatial), its channels in the model's order or just one.

    Its voxels are taken as they are, as training does.
    """
    spec = session.spec
    chosen = tuple(str(c) for c in range(len(image))) if len(image) > 1 else ()
    options = replace(options or InferOptions(), channel=chosen, resample=False)
    return infer_source(MemorySource(image, "C" + spec.axes, voxel_size_um=spec.voxel_size_um), session, options)


def _predict(
    scene: Scene, session: Session, plan: Plan, intensities: Intensities, stop: Stop, progress: Progress
) -> Scores | Detected:
    detects = isinstance(session.spec.decoder, Detections)
    if detects and not intensities.constant:
        return detect(scene, session, plan, intensities.scale, stop, progress.advance)
    if intensities.constant:
        # nothing to see: no network needs to be asked, whatever it was trained on
        progress.advance(len(plan.grid))
        if detects:
            return join_detected([])
        return {o.name: np.zeros((o.channels, *plan.shape), np.uint16) for o in session.spec.outputs}
    return predict(scene, session, plan, intensities.scale, stop, progress.advance)


def memory_needed(source: ImageSource, pictures: Sequence[Scene], plans: Sequence[Plan], session: Session) -> int:
    """Bytes that labelling whole pictures takes: labels of all of them, and the work on two."""
    voxels = max(prod(scene.shape) for scene in pictures)
    channels = source.shape[source.axes.index("C")] if "C" in source.axes else 1
    detects = isinstance(session.spec.decoder, Detections)  # a list of objects takes the place of maps
    outputs = 0 if detects else sum(output.channels for output in session.spec.outputs)
    # scores as 16-bit numbers for two pictures; labels, raw values and float scores of the one being labelled
    work = prod(plans[0].shape) * (2 * 2 * outputs + 4 * outputs + 8) + voxels * (4 + channels * source.dtype.itemsize)
    if not pictures[0].grid.same:
        # labels at the model's voxel size, and labels and scores on their way back
        work += 4 * prod(plans[0].shape) + 8 * voxels
    batch = prod(plans[0].tile) * plans[0].batch * 4 * (len(session.spec.channels) + outputs)
    tiles = batches_on_a_device(session) * batch
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


def number_through(labels: Array, counts: Sequence[int]) -> None:
    """Shift the labels of each picture so that no two objects of a source share one."""
    offset = 0
    for picture, count in zip(labels, counts, strict=True):
        if offset and count:
            np.add(picture, np.uint32(offset), out=picture, where=picture > 0)
        offset += count
