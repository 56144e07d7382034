"""A detector on pictures whose labels do not fit in memory: its objects are kept, labels are made piece by piece.

Boxes and masks are small, so the objects of a picture stay in memory; their label image is pasted in pieces, twice:
once to find the order in which objects appear, once to write and measure them under their numbers. What the network
finds is kept in a checkpoint, window by window; pasting starts over after a kill.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cellengine.engine.checkpoint import Checkpoint
from cellengine.engine.classify import CellClassifier, classes_of_objects
from cellengine.engine.detect import KeptWindows, detect
from cellengine.engine.flow import Stop, overlap
from cellengine.engine.measured import measure_once
from cellengine.engine.options import InferOptions
from cellengine.engine.outputs import labels_path
from cellengine.engine.overlay import Window
from cellengine.engine.plan import plan_picture, ram_limit
from cellengine.engine.run import Clock, Progress, describe_run, label_axes
from cellengine.engine.scene import Scene, scenes
from cellengine.engine.session import Session
from cellengine.engine.table import Table, detected_columns
from cellengine.geometry import Cells, Region
from cellengine.io import ImageSource, TableWriter, create_sink, write_png
from cellengine.ops.detected import Detected, join_detected
from cellengine.ops.detections import paste_masks
from cellengine.ops.labels import relabel
from cellengine.ops.measure import ObjectStatistics
from cellengine.ops.stitch import keep_core
from cellengine.ops.threads import worker_count

Array = np.ndarray[Any, Any]

PIECE_SHARE = 1 / 8
"""share of a run's memory for pieces in work"""
PIECE_BYTES = 40
"""memory a pixel of a piece takes: pasted, named, measured, written"""


def stream_detected(
    source: ImageSource,
    session: Session,
    options: InferOptions,
    stop: Stop,
    progress: Progress,
    stem: Path,
    *,
    is_zarr: bool,
    checkpoint: Checkpoint,
    then: Session | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """As `infer_source` and `write_outputs` with a detector, whatever the size of the picture.

    Windows that the `checkpoint`, begun with the plan of the source, holds are not computed again. Memory: the plan's,
    and about 5 kB an object of a picture. Returns what is recorded, and the names of the outputs.
    """
    spec, clock, begun = session.spec, Clock(), time.perf_counter()
    pictures = scenes(source, spec, options)
    plan = plan_picture(pictures[0].seen.shape, session, options).thawed(checkpoint.plan)
    progress.begin(source.name, len(pictures) * len(plan.grid))
    cells = None if then is None else CellClassifier(source, then, spec, options, stop)
    classes = classes_of_objects(spec, then)
    axes, shape = label_axes(source, options)
    path = labels_path(stem, 4 * prod(shape), options, is_zarr=is_zarr)
    table_path, overlay_path = (stem.with_name(stem.name + end) for end in (".objects.csv", ".overlay.png"))
    threads = worker_count()
    voxels = max(1, int(PIECE_SHARE * ram_limit(options) / (threads * PIECE_BYTES)))
    unfit = objects = restored = 0
    with ExitStack() as held:
        sink = held.enter_context(create_sink(path, shape, axes, source.voxel_size_um))
        pieces = list(Cells.of_chunks(pictures[0].shape, sink.chunks[-len(pictures[0].shape) :], voxels))
        table: TableWriter | None = None
        for index, scene in enumerate(pictures):
            with clock("scale"):
                measured = measure_once(index, scene, spec.normalize, options, checkpoint)
            if measured.not_finite:
                unfit += measured.not_finite
                scene = replace(scene, fill=True)
            found = join_detected([])
            if measured.constant:
                progress.advance(len(plan.grid))
            else:
                restored += len(checkpoint.blocks(index))
                kept = KeptWindows(checkpoint, index)
                with clock("network"):
                    found = detect(scene.seen, session, plan, measured.scale, stop, progress.advance, kept)
            window = Window.central(scene.shape)
            picture = PastedPicture(scene, found, pieces, threads, stop)
            with clock("label"):
                picture.number()
            with clock("write"):
                for piece, labels in picture.labels():
                    labels[labels > 0] += np.uint32(objects)
                    window.take(piece, labels)
                    place = scene.place(axes, piece)
                    sink.write(place, labels.reshape(place.shape))
                rows = picture.rows(session)
                if cells is not None:
                    rows = cells.classify(index, rows)
                rows["label"] = rows["label"].astype(np.int64) + objects
                objects += len(rows["label"])
                table = table or held.enter_context(TableWriter(table_path, list(rows)))
                table.append(rows)
                if index == len(pictures) // 2:
                    if classes:
                        window.tell(rows["label"], rows["class"], classes)
                    write_png(overlay_path, window.draw(scene))
    run = describe_run(source, [plan] * len(pictures), objects, unfit, clock, time.perf_counter() - begun)
    run |= {"pieces": len(pictures) * len(pieces), "tiles_from_earlier_runs": restored}
    run |= {} if cells is None else cells.record()
    return run, [p.name for p in (path, table_path, overlay_path)]


class PastedPicture:
    """The label image of detected objects, made anew for every piece that is asked for."""

    def __init__(self, scene: Scene, found: Detected, pieces: list[Region], threads: int, stop: Stop) -> None:
        """`found`: in px of what the network sees, best first; `pieces` partition the picture."""
        self._scene, self._found, self._pieces = scene, found, pieces
        self._threads, self._stop = threads, stop
        self._names = np.zeros(len(found) + 1, np.uint32)
        self._order = np.zeros(0, np.int64)
        channels = scene.source.shape[scene.source.axes.index("C")] if "C" in scene.source.axes else 1
        self._statistics = ObjectStatistics(scene.shape, channels)

    def number(self) -> None:
        """Name the objects 1 ... n in raster order of first pixel; those that better ones cover get no name."""
        never = np.iinfo(np.int64).max
        first = np.full(len(self._found) + 1, never)
        for objects, places in overlap(self._look, self._pieces, self._threads, self._stop):
            np.minimum.at(first, objects, places)
        seen = np.flatnonzero(first < never)
        self._order = seen[np.argsort(first[seen])] - 1
        self._names[self._order + 1] = np.arange(1, len(self._order) + 1)

    def labels(self) -> Iterator[tuple[Region, Array]]:
        """Every piece with its labels, uint32, in order; they are measured on the way."""

        def one(piece: Region) -> tuple[Region, Array, ObjectStatistics, Array]:
            own, objects = self._paste(piece)
            names = self._names[objects]
            part = ObjectStatistics(self._scene.shape, self._statistics.channels)
            if len(objects) > 1:
                part.add(own, self._scene.read_all_channels(piece), piece.start, workers=1)
            return piece, names[own], part, names

        for piece, labels, part, names in overlap(one, self._pieces, self._threads, self._stop):
            self._statistics.merge(part, names)
            yield piece, labels

    def rows(self, session: Session) -> Table:
        """The table of what `labels` has given out."""
        measured = self._statistics.finish()
        return detected_columns(measured, self._found[self._order], self._scene, session.spec)

    def _look(self, piece: Region) -> tuple[Array, Array]:
        """Which objects are seen in a piece, as `_paste` calls them, and where in the picture each begins."""
        own, objects = self._paste(piece)
        kept = keep_core(own, len(objects) - 1, piece.start, self._scene.shape)
        return objects[1:], kept.first[1:]

    def _paste(self, piece: Region) -> tuple[Array, Array]:
        """Labels of a piece's own, uint32, the better object on top; and for each its number in `found`, from 1."""
        grid = self._scene.grid
        seen = grid.network_region(piece)
        boxes, start = self._found.boxes, np.tile(np.array(seen.start, np.float32), 2)
        near = (boxes[:, :2] < np.array(seen.stop)).all(axis=1) & (boxes[:, 2:] > start[:2]).all(axis=1)
        numbers = np.flatnonzero(near)
        some = self._found[numbers]
        pasted = grid.to_image(
            paste_masks(some.boxes - start, some.masks, (seen.shape[0], seen.shape[1]), some.scores), piece
        )
        own = relabel(pasted)
        objects = np.zeros(int(own.max(initial=0)) + 1, np.int64)
        objects[own] = np.concatenate([[0], numbers + 1])[pasted]
        return own, objects
