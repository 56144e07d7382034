"""Semantic models: every voxel gets its most probable class, tile by tile. No objects, no scores that are kept.

A tile's core needs nothing from its neighbours, so pictures of any size take the same road, straight to the sink.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from cellengine.engine.flow import Stop
from cellengine.engine.options import InferOptions
from cellengine.engine.overlay import Window
from cellengine.engine.plan import plan_picture
from cellengine.engine.predict import predict_batches, tile_batches
from cellengine.engine.run import Clock, Progress, check_finite, describe_run, label_axes
from cellengine.engine.scale import measure_scene
from cellengine.engine.scene import Scene, scenes
from cellengine.engine.session import Session
from cellengine.engine.table import Table
from cellengine.geometry import Region
from cellengine.io import ImageSource, LabelSink
from cellengine.ops import argmax

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
    source: ImageSource, session: Session, options: InferOptions, stop: Stop, progress: Progress, sink: LabelSink
) -> ClassMap:
    """Write the class of every voxel of `source` to `sink`, uint8, numbered from 0 in the order of the spec.

    A picture that holds one value alone is class 0 throughout. Memory: the tiles in work, and 5 bytes a voxel of the
    overlay. Raises InputError for what the model cannot take, Interrupted when `stop` says so.
    """
    spec, clock, begun = session.spec, Clock(), time.perf_counter()
    axes, _ = label_axes(source, options)
    pictures = scenes(source, spec, options)
    plans = [plan_picture(scene.seen.shape, session, options) for scene in pictures]
    progress.begin(source.name, sum(len(plan.tiles) for plan in plans))
    middle = len(pictures) // 2
    window = Window.central(pictures[middle].shape)
    areas = np.zeros((len(pictures), len(spec.classes)), np.int64)
    unfit = 0
    for index, (scene, plan) in enumerate(zip(pictures, plans, strict=True)):
        with clock("scale"):
            intensities = measure_scene(scene.seen, spec.normalize)
        if intensities.not_finite:
            unfit += check_finite(source, intensities, options)
            scene = pictures[index] = replace(scene, fill=True)
        if intensities.constant:
            # nothing to see: the sink holds class 0 where nothing is written
            areas[index, 0] = prod(scene.shape)
            progress.advance(len(plan.tiles))
            continue
        job = _Picture(scene, axes, sink, areas[index], window if index == middle else None, Lock(), clock)
        with clock("network"):
            batches = tile_batches(plan)
            for done in predict_batches(batches, job.keep, scene.seen, session, plan, intensities.scale, stop):
                progress.advance(len(done))
    run = describe_run(source, plans, 0, unfit, clock, time.perf_counter() - begun)
    return ClassMap(pictures, class_areas(pictures, areas, spec.classes), run | _shares(areas, spec.classes), window)


@dataclass(frozen=True, slots=True)
class _Picture:
    """Where the classes of one picture go."""

    scene: Scene
    axes: str
    sink: LabelSink
    areas: Array
    """voxels of each class so far"""
    window: Window | None
    lock: Lock
    clock: Clock

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
