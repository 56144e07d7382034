"""objects.csv as columns: one row an object, in pixels and, when the voxel size is known, in micrometres."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from cellengine.engine.predict import SCORE_STEPS, Scores
from cellengine.engine.scene import Scene
from cellengine.geometry import Region
from cellengine.ops import measure_objects
from cellengine.ops.detected import Detected
from cellengine.ops.measure import ObjectTable
from cellengine.spec import ModelSpec

Array = np.ndarray[Any, Any]
Table = dict[str, Array]


def measure_picture(labels: Array, scene: Scene, scores: Scores, spec: ModelSpec) -> Table:
    """Measure the objects of one picture: place, size, intensities of every channel, mean foreground as the score."""
    raw = scene.read_all_channels(Region.whole(scene.shape))
    found = measure_objects(labels, raw)
    score = None
    if "foreground" in scores:
        foreground = scene.grid.whole_to_image(scores["foreground"])
        score = measure_objects(labels, foreground).intensity_mean[:, 0] / SCORE_STEPS
    return object_columns(found, score, scene, spec)


def measure_detected(labels: Array, listed: Detected, scene: Scene, spec: ModelSpec) -> Table:
    """As `measure_picture`, for objects that a detector found: object i of `listed` is label i + 1."""
    found = measure_objects(labels, scene.read_all_channels(Region.whole(scene.shape)))
    return detected_columns(found, listed, scene, spec)


def detected_columns(found: ObjectTable, listed: Detected, scene: Scene, spec: ModelSpec) -> Table:
    """The columns of detected objects that were measured: scores and classes are the detector's."""
    own = listed[found.label.astype(np.int64) - 1]
    table = object_columns(found, own.scores, scene, spec)
    if len(spec.classes) > 1:
        table["class"] = np.array(spec.classes)[own.classes]
    return table


def object_columns(found: ObjectTable, score: Array | None, scene: Scene, spec: ModelSpec) -> Table:
    """The columns of what was measured in one picture; `score` is the mean foreground where there is one."""
    table: Table = {"label": found.label}
    table |= {axis: np.full(len(found), index, np.int64) for axis, index in scene.at.items()}
    if len(spec.classes) == 1:
        table["class"] = np.full(len(found), spec.classes[0])
    if score is not None:
        table["score"] = score
    axes, size = scene.axes.lower(), scene.voxel_size_um
    for i, axis in enumerate(axes):
        table[f"centroid_{axis}_px"] = found.centroid[:, i]
    if size:
        for i, axis in enumerate(axes):
            table[f"centroid_{axis}_um"] = found.centroid[:, i] * size[i]
    corners = [f"bbox_{axis}{end}" for end in (0, 1) for axis in axes]
    table |= {name: found.bbox[:, i] for i, name in enumerate(corners)}
    extent, unit = ("area", "um2") if len(axes) == 2 else ("volume", "um3")
    table[f"{extent}_px"] = found.area
    if size:
        table[f"{extent}_{unit}"] = found.area * prod(size)
    for channel in range(found.intensity_mean.shape[1]):
        for statistic in ("mean", "min", "max"):
            values: Array = getattr(found, f"intensity_{statistic}")
            table[f"intensity_{statistic}_c{channel}"] = values[:, channel]
    table["touches_border"] = found.touches_border
    return table


def join_tables(tables: list[Table]) -> Table:
    """The tables of the pictures of one source below each other; labels go on counting."""
    offsets = np.cumsum([0] + [len(t["label"]) for t in tables])
    joined = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
    joined["label"] = np.concatenate([t["label"] + offset for t, offset in zip(tables, offsets[:-1], strict=True)])
    return joined
