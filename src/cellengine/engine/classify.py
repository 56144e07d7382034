"""Classifiers: crops in, class and probability out. A crop is a file of its own, or is cut around a cell of a picture.

Either way it has the shape and the voxel size that the classifier was trained with, is continued by reflection where it
leaves the picture, and is scaled by itself, so that a cell gets the answer that its crop would get as a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from typing import Any, TypeVar

import numpy as np

from cellengine.engine.flow import Stop, overlap
from cellengine.engine.frugal import run_within_memory
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import TILE_SHARE, ram_limit
from cellengine.engine.predict import reflect
from cellengine.engine.run import check_finite
from cellengine.engine.scale import measure_scale
from cellengine.engine.scene import Scene, scenes
from cellengine.engine.session import Session
from cellengine.engine.table import Table
from cellengine.errors import InputError, UsageError
from cellengine.geometry import Region
from cellengine.io import ImageSource
from cellengine.ops.normalize import normalize_into
from cellengine.spec import ModelSpec

Array = np.ndarray[Any, Any]
Item = TypeVar("Item")

MOST_CROPS = 64
"""crops in a call of the network; more would not be faster"""


def classify(
    items: Sequence[Item],
    read: Callable[[Item], Array | None],
    session: Session,
    options: InferOptions,
    stop: Stop,
    advance: Callable[[int], None] = lambda crops: None,
) -> Array:
    """Probabilities of the classes of every crop, float32 (len(items), classes); NaN where there is no crop.

    `read(item)`, called by several threads, gives a crop as the network takes it, float32 (C, *spec.tile), or None.
    Every call of the network gets a full batch, because results may differ in the last bits between batch sizes.
    Memory: per thread a batch.
    """
    spec = session.spec
    fitting = TILE_SHARE * ram_limit(options) / (spec.activation_bytes * prod(spec.tile))
    at_once = max(1, min(MOST_CROPS, int(fitting)))

    def run(part: Sequence[Item]) -> Array:
        batch = np.zeros((at_once, len(spec.channels), *spec.tile), np.float32)
        absent = []
        for i, item in enumerate(part):
            crop = read(item)
            if crop is None:
                absent.append(i)
            else:
                batch[i] = crop
        answers = np.array(run_within_memory(session, batch, None)["classes"][: len(part)])
        answers[absent] = np.nan
        return answers

    parts = [items[first : first + at_once] for first in range(0, len(items), at_once)]
    found = [np.zeros((0, len(spec.classes)), np.float32)]
    for answers in overlap(run, parts, session.concurrency, stop):
        found.append(answers)
        advance(len(answers))
    return np.concatenate(found)


def cut_crop(scene: Scene, centre: Sequence[int], spec: ModelSpec, options: InferOptions) -> Array:
    """The crop of `spec.tile` voxels around voxel `centre` of a picture, scaled by itself: float32 (C, *spec.tile).

    `scene` has the voxel size of the classifier. Raises InputError for values that are no numbers.
    """
    places = [
        reflect(np.arange(c - n // 2, c - n // 2 + n), length)
        for c, n, length in zip(centre, spec.tile, scene.shape, strict=True)
    ]
    needed = Region(tuple(int(p.min()) for p in places), tuple(int(p.max()) + 1 for p in places))
    crop = scene.read(needed)
    for axis, (place, start) in enumerate(zip(places, needed.start, strict=True), 1):
        if (np.diff(place) != 1).any():
            crop = np.take(crop, place - start, axis)
    found = measure_scale(lambda: iter((crop,)), len(crop), crop.dtype, spec.normalize)
    if found.not_finite:
        check_finite(scene.source, found, options)
        crop = np.nan_to_num(crop, nan=0.0, posinf=0.0, neginf=0.0)
    out = np.empty(crop.shape, np.float32)
    normalize_into(crop, found.scale, out)
    return out


def check_classifier(then: ModelSpec, model: ModelSpec) -> None:
    """Refuse what cannot classify the cells that `model` finds, before a picture is opened."""
    if then.task != "classification":
        raise UsageError(
            f"--then {then.name}: a model for {then.task} was given, a classifier is expected "
            "(cellengine models lists the task of each)."
        )
    if then.axes != model.axes:
        raise UsageError(
            f"--then {then.name}: it takes crops in {then.axes}, the cells of {model.name} are found in {model.axes}; "
            "choose a classifier for these axes."
        )
    if model.task in ("classification", "semantic"):
        raise UsageError(f"--then needs a model that finds cells; {model.name} is one for {model.task}.")


def _pictures(source: ImageSource, then: ModelSpec, model: ModelSpec, options: InferOptions) -> list[Scene]:
    """The pictures of `source` as a classifier of the cells of `model` wants them.

    It gets the channels chosen for the model where both take as many; else those that the picture itself decides, and
    where it does not, those chosen.
    """
    if options.channel and len(then.channels) != len(model.channels):
        with suppress(InputError):
            return scenes(source, then, replace(options, channel=()))
    return scenes(source, then, options)


def classes_of_objects(model: ModelSpec, then: Session | None) -> tuple[str, ...]:
    """The classes that tell objects apart in the column `class`; none where there is just one."""
    classes = model.classes if then is None else then.spec.classes
    return classes if len(classes) > 1 and (then is not None or model.task == "detection") else ()


class CellClassifier:
    """Gives the objects of one source their classes, as the rows of their table come, and counts them."""

    def __init__(
        self, source: ImageSource, session: Session, model: ModelSpec, options: InferOptions, stop: Stop
    ) -> None:
        """`session`: the classifier; its channels are as `_pictures` says. InputError or UsageError on what is
        unclear."""
        self._session, self._options, self._stop = session, options, stop
        self._pictures = _pictures(source, session.spec, model, options)
        self._counts: Counter[str] = Counter()

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the classifier."""
        return self._session.spec.classes

    def classify(self, picture: int, rows: Table) -> Table:
        """The rows of objects in picture number `picture`, with `class` and `score`, its probability.

        A crop lies around the middle of an object's bounding box. The mean foreground, `score` until then, becomes
        `foreground`. Memory: a batch of crops per thread.
        """
        scene, spec = self._pictures[picture], self._session.spec
        seen, axes = scene.seen, scene.axes.lower()
        corners = (np.asarray(rows[f"bbox_{a}0"]) + np.asarray(rows[f"bbox_{a}1"]) for a in axes)
        sizes = zip(corners, seen.shape, scene.shape, strict=True)
        centres = np.stack([both * new // (2 * old) for both, new, old in sizes], axis=1)

        def read(centre: Array) -> Array:
            return cut_crop(seen, centre.tolist(), spec, self._options)

        found = best(classify(list(centres), read, self._session, self._options, self._stop), spec.classes)
        self._counts.update(found["class"].tolist())
        first: Table = {name: rows[name] for name in ("label", "t", "z") if name in rows}
        rest = {name: values for name, values in rows.items() if name not in (*first, "class", "score")}
        foreground = {"foreground": rows["score"]} if "score" in rows else {}
        return {**first, **found, **foreground, **rest}

    def record(self) -> dict[str, Any]:
        """What run.json says of the source: objects of each class, and their share of all."""
        return {"classes": class_shares(self._counts, self._session.spec.classes)}


def best(answers: Array, names: tuple[str, ...]) -> Table:
    """The columns `class` and `score` of probabilities (n, classes)."""
    return {"class": np.array(names, str)[answers.argmax(axis=1)], "score": answers.max(axis=1, initial=0.0)}


def class_shares(counts: Mapping[str, int], names: tuple[str, ...]) -> dict[str, Any]:
    """What run.json says of the classes of a source: objects of each, and their share of all."""
    total = max(1, sum(counts.values()))
    return {name: {"objects": counts.get(name, 0), "share": round(counts.get(name, 0) / total, 6)} for name in names}
