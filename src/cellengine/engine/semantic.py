"""Semantic models: every voxel gets its most probable class, tile by tile. No objects, no scores that are kept.

A tile's core needs nothing from its neighbours, so its classes go straight to the sink; those of a long run are kept
in a checkpoint, compressed, and go to the sink when all are there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from cellengine.engine.assemble import Assembly
from cellengine.engine.checkpoint import Checkpoint
from cellengine.engine.flow import Stop, overlap
from cellengine.engine.measured import measure_once
from cellengine.engine.options import InferOptions
from cellengine.engine.overlay import Window
from cellengine.engine.plan import Plan, plan_picture
from cellengine.engine.predict import predict_batches, tile_batches
from cellengine.engine.run import Clock, Progress, describe_run, label_axes
from cellengine.engine.scene import Scene, scenes
from cellengine.engine.schedule import tile_number
from cellengine.engine.session import Session
from cellengine.engine.table import Table
from cellengine.geometry import Cells, Region, Tile
from cellengine.io import ImageSource, LabelSink
from cellengine.ops import argmax
from cellengine.ops.threads import worker_count

Array = np.ndarray[Any, Any]

PIECE_VOXELS = 1 << 22
"""voxels of the picture that are written at a time, where it is finer than what the network sees"""


@dataclass(frozen=True, slots=True)
class ClassMap:
    """What is known of a source whose class map lies in a sink."""

    pictures: list[Scene]
    table: Table
    """one row a picture and class, see `class_areas`"""
    run: dict[str, Any]
    window: Window
    """the part of the middle picture that an overlay shows"""


def map_classes(
    source: ImageSource,
    session: Session,
    options: InferOptions,
    stop: Stop,
    progress: Progress,
    sink: LabelSink,
    checkpoint: Checkpoint | None = None,
) -> ClassMap:
    """Write the class of every voxel of `source` to `sink`, uint8, numbered from 0 in the order of the spec.

    A picture that holds one value alone is class 0 throughout. With a `checkpoint`, begun with the plan of the source,
    tiles that it holds are not computed again. Memory: the tiles in work, and 5 bytes a voxel of the overlay. Raises
    InputError for what the model cannot take, Interrupted when `stop` says so.
    """
    spec, clock, begun = session.spec, Clock(), time.perf_counter()
    axes, _ = label_axes(source, options)
    pictures = scenes(source, spec, options)
    plan = plan_picture(pictures[0].seen.shape, session, options)
    plan = plan if checkpoint is None else plan.thawed(checkpoint.plan)
    progress.begin(source.name, len(pictures) * len(plan.grid))
    middle = len(pictures) // 2
    window = Window.central(pictures[middle].shape)
    areas = np.zeros((len(pictures), len(spec.classes)), np.int64)
    unfit = restored = 0
    for index, scene in enumerate(pictures):
        with clock("scale"):
            measured = measure_once(index, scene, spec.normalize, options, checkpoint)
        if measured.not_finite:
            unfit += measured.not_finite
            scene = pictures[index] = replace(scene, fill=True)
        if measured.constant:
            # nothing to see: the sink holds class 0 where nothing is written
            areas[index, 0] = prod(scene.shape)
            progress.advance(len(plan.grid))
            continue
        job: _Direct | _Kept
        if checkpoint is None:
            job = _Direct(scene, axes, sink, areas[index], window if index == middle else None, Lock(), clock)
        else:
            job = _Kept(scene, plan, checkpoint, index, len(spec.classes))
        batches = (batch for batch in tile_batches(plan) if not job.holds(batch))
        missing = sum(len(batch) for batch in tile_batches(plan) if not job.holds(batch))
        restored += len(plan.grid) - missing
        progress.advance(len(plan.grid) - missing)
        with clock("network"):
            for done in predict_batches(batches, job.keep, scene.seen, session, plan, measured.scale, stop):
                progress.advance(len(done))
        if isinstance(job, _Kept):
            areas[index] = job.areas()
    if checkpoint is not None:
        with clock("write"):
            _write([_Kept(scene, plan, checkpoint, i, 0) for i, scene in enumerate(pictures)], axes, sink, window, stop)
    run = describe_run(source, [plan] * len(pictures), 0, unfit, clock, time.perf_counter() - begun)
    run |= _shares(areas, spec.classes) | ({} if checkpoint is None else {"tiles_from_earlier_runs": restored})
    return ClassMap(pictures, class_areas(pictures, areas, spec.classes), run, window)


@dataclass(frozen=True, slots=True)
class _Direct:
    """The classes of one picture go to the sink as they come."""

    scene: Scene
    axes: str
    sink: LabelSink
    areas: Array
    """voxels of each class so far"""
    window: Window | None
    lock: Lock
    clock: Clock

    def holds(self, batch: list[Tile]) -> bool:
        """Whether the classes of tiles are known: never before they were computed."""
        return False

    def keep(self, core: Region, outputs: dict[str, Array]) -> None:
        """Take the answer to the core of a tile; any thread may."""
        classes, grid = argmax(outputs["classes"], workers=1), self.scene.grid
        for piece in grid.image_region(core).pieces(PIECE_VOXELS):
            part = grid.to_image(classes[grid.network_region(piece).relative_to(core)], piece)
            place = self.scene.place(self.axes, piece)
            with self.clock("write"):
                self.sink.write(place, part.reshape(place.shape))
            with self.lock:
                np.add(self.areas, np.bincount(part.reshape(-1), minlength=len(self.areas)), out=self.areas)
                if self.window is not None:
                    self.window.take(piece, part)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The classes of one picture are kept in a checkpoint, a record a tile, and read from there in any box."""

    scene: Scene
    plan: Plan
    checkpoint: Checkpoint
    index: int
    """of the picture in its source"""
    classes: int

    def holds(self, batch: list[Tile]) -> bool:
        """Whether the classes of all these tiles are known."""
        kept = self.checkpoint.blocks(self.index)
        return all(tile_number(self.plan, tile.core) in kept for tile in batch)

    def keep(self, core: Region, outputs: dict[str, Array]) -> None:
        """Take the answer to the core of a tile, unless it is here; any thread may."""
        number = tile_number(self.plan, core)
        if number in self.checkpoint.blocks(self.index):
            return
        classes, grid = argmax(outputs["classes"], workers=1), self.scene.grid
        counts = np.zeros(self.classes, np.int64)
        for piece in grid.image_region(core).pieces(PIECE_VOXELS):
            part = grid.to_image(classes[grid.network_region(piece).relative_to(core)], piece)
            counts += np.bincount(part.reshape(-1), minlength=self.classes)
        self.checkpoint.keep_block(self.index, number, classes, {"areas": counts})

    def areas(self) -> Array:
        """Voxels of each class, when every tile is here."""
        store, places = self.checkpoint.labels, self.checkpoint.blocks(self.index)
        total = np.zeros(self.classes, np.int64)
        for place in places.values():
            total += store.tables(place)["areas"]
        return total

    def labels(self, region: Region) -> Array:
        """The classes in a box of the picture; 0 where nothing is kept. Any thread may ask."""
        store, places = self.checkpoint.labels, self.checkpoint.blocks(self.index)
        seen, tiles = self.scene.grid.network_region(region), self.plan.grid
        out = np.zeros(seen.shape, np.uint8)
        for number in tiles.meeting(seen):
            if number in places:
                core = tiles.cell(number)
                part = seen.intersect(core)
                out[part.relative_to(seen)] = store.read(places[number], part.seen_from(core))
        return self.scene.grid.to_image(out, region)


def _write(pictures: list[_Kept], axes: str, sink: LabelSink, window: Window, stop: Stop) -> None:
    """What is kept of all pictures goes to the sink, some chunks at a time."""
    regions = Cells.of_chunks(sink.shape, sink.chunks, PIECE_VOXELS)
    found = overlap(Assembly(axes, pictures).labels, regions, worker_count(), stop)
    for region, classes in zip(regions, found, strict=True):
        sink.write(region, classes)
    window.take(window.region, pictures[len(pictures) // 2].labels(window.region))


def class_areas(pictures: list[Scene], areas: Array, names: tuple[str, ...]) -> Table:
    """The rows of `<stem>.classes.csv`: for each picture and class its number, name, area and share of the picture.

    Columns: `t` and `z` where a 2D model ran on a series or stack, `id`, `class`, `area_px` and `area_um2` (`volume_px`
    and `volume_um3` of volumes; um only when the voxel size is known), `share`.
    """
    count = len(names)
    table: Table = {axis: np.repeat([scene.at[axis] for scene in pictures], count) for axis in pictures[0].at}
    table |= {"id": np.tile(np.arange(count), len(pictures)), "class": np.tile(np.array(names), len(pictures))}
    extent, unit = ("area", "um2") if len(pictures[0].axes) == 2 else ("volume", "um3")
    table[f"{extent}_px"] = areas.reshape(-1)
    size = pictures[0].voxel_size_um
    if size:
        table[f"{extent}_{unit}"] = areas.reshape(-1) * prod(size)
    table["share"] = (areas / areas.sum(axis=1, keepdims=True)).reshape(-1)
    return table


def _shares(areas: Array, names: tuple[str, ...]) -> dict[str, Any]:
    """What run.json says of the classes of a source."""
    counts = areas.sum(axis=0)
    pairs = zip(names, counts, strict=True)
    return {"classes": {name: {"px": int(n), "share": round(float(n / counts.sum()), 6)} for name, n in pairs}}
