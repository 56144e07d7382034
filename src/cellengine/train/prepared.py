"""Pictures as training reads them: scaled image and target maps, made once, in memory or in memory-mapped files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from cellengine.engine.scale import measure_scale
from cellengine.io.annotated import Item, Picture
from cellengine.ops.normalize import normalize_into
from cellengine.records import to_plain
from cellengine.spec import Normalize
from cellengine.train.config import TrainConfig
from cellengine.train.targets import Maps, class_ids, make_maps

Array = np.ndarray[Any, Any]

PIXELS = 256
"""px kept as centres of crops, for maps of classes"""
FORMAT = 2
"""of prepared pictures; to be raised when they are made in another way"""
_DONE = "done.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """One picture, ready to be cut."""

    kind: str
    image: Array
    """(C, *spatial) float16, scaled"""
    maps: Maps
    """by head, and `weight`; (*spatial)"""
    centres: Array
    """(n, axes): one voxel near the middle of each cell"""
    sides: Array
    """(n,): longest side of the bounding box of each cell"""


def prepare_picture(picture: Picture, config: TrainConfig) -> Prepared:
    """Scale the picture and make its target maps; about 50 bytes a voxel at the peak."""
    labels, unknown = picture.labels, None
    if config.task == "semantic":
        values = config.data.mask_values or tuple(range(len(config.classes)))
        labels, unknown = class_ids(labels, values, config.data.ignore_value, str(picture.item.label))
    elif config.data.ignore_value is not None:
        unknown = labels == config.data.ignore_value
        labels = np.where(unknown, 0, labels)
    heads = tuple(output.name for output in config.model.outputs)
    semantic = config.task == "semantic"
    if config.task == "detection":
        maps: Maps = {"foreground": labels > 0, "objects": labels}
    else:
        maps = make_maps(labels, heads, config.targets, config.loss, voxel_size=config.voxel_size_um, unknown=unknown)
    return Prepared(
        kind=picture.item.kind,
        image=scale_picture(picture.image, config.normalize),
        maps=maps,
        centres=some_pixels(labels) if semantic else centres_of(labels),
        sides=np.empty(0, np.int64) if semantic else longest_sides(labels),
    )


def scale_picture(image: Array, config: Normalize, *, measured_on: Array | None = None) -> Array:
    """The picture as the network sees it, float16 to halve memory; scaled exactly as `infer` does.

    `measured_on` is the part that the scale comes from, where it is not the whole.
    """
    seen = image if measured_on is None else measured_on
    scale = measure_scale(lambda: [seen], image.shape[0], image.dtype, config).scale
    scaled = np.empty(image.shape, np.float32)
    normalize_into(image, scale, scaled)
    return scaled.astype(np.float16)


def centres_of(labels: Array) -> Array:
    """One voxel near the middle of each cell, (n, axes)."""
    flat = np.flatnonzero(labels)
    if flat.size == 0:
        return np.empty((0, labels.ndim), np.int64)
    ids = labels.ravel()[flat].astype(np.int64)
    counts = np.maximum(np.bincount(ids), 1)
    axes = np.unravel_index(flat, labels.shape)
    means = np.stack([np.bincount(ids, a) / counts for a in axes], axis=1)
    return means[np.unique(ids)].astype(np.int64)


def some_pixels(classes: Array) -> Array:
    """Up to PIXELS voxels that are not background, of every class alike, evenly spread, (n, axes)."""
    present = np.unique(classes[classes > 0])
    each = max(1, PIXELS // max(1, len(present)))
    found = [np.flatnonzero(classes == number) for number in present]
    flat = np.concatenate([np.empty(0, np.int64), *(at[:: -(-len(at) // each)] for at in found)])
    return np.stack(np.unravel_index(flat, classes.shape), axis=1).astype(np.int64)


def longest_sides(labels: Array) -> Array:
    """The longest side of the bounding box of each cell, (n,)."""
    boxes = [box for box in ndimage.find_objects(labels.astype(np.int64, copy=False)) if box]
    return np.array([max(s.stop - s.start for s in box) for box in boxes], np.int64)


class PreparedFolder:
    """Prepared pictures on disk, one folder each, read through memory maps: only what is cut out is loaded.

    A folder is named by a digest of the files and settings that it was made from, so that another run with the same
    ones finds it; it appears whole or not at all.
    """

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self.folder, self.config = folder, config

    def find(self, item: Item) -> Prepared | None:
        """The picture of `item` if it has been kept."""
        place = self._place(item)
        return _load(place) if (place / _DONE).is_file() else None

    def keep(self, item: Item, prepared: Prepared) -> Prepared:
        """Write `prepared` and give it back as memory maps."""
        place = self._place(item)
        # processes that train together make the same pictures; the first to finish one has made it for all
        partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        np.save(partial / "image.npy", prepared.image)
        for name, values in prepared.maps.items():
            np.save(partial / f"map_{name}.npy", values)
        np.save(partial / "centres.npy", prepared.centres)
        np.save(partial / "sides.npy", prepared.sides)
        record = {"kind": prepared.kind, "maps": list(prepared.maps)}
        (partial / _DONE).write_text(json.dumps(record), encoding="utf-8")
        try:
            partial.replace(place)
        except OSError:
            shutil.rmtree(partial)
            if not (place / _DONE).is_file():
                raise
        return _load(place)

    def _place(self, item: Item) -> Path:
        config = self.config
        files = [item.image, item.label]
        made_from = {
            "format": FORMAT,
            "where": config.data.where,
            "files": [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files],
            "datasets": [item.image_dataset, item.label_dataset, item.axes, item.kind],
            "settings": [
                to_plain(part) for part in (config.normalize, config.targets, config.loss, config.model.outputs)
            ],
            "reading": [config.task, config.channels, config.voxel_size_um, config.classes],
            "annotation": [config.data.mask_values, config.data.ignore_value],
        }
        digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{item.image.name}.{digest[:16]}"


def _load(place: Path) -> Prepared:
    record = json.loads((place / _DONE).read_text(encoding="utf-8"))
    return Prepared(
        kind=record["kind"],
        image=np.load(place / "image.npy", mmap_mode="r"),
        maps={name: np.load(place / f"map_{name}.npy", mmap_mode="r") for name in record["maps"]},
        centres=np.load(place / "centres.npy"),
        sides=np.load(place / "sides.npy"),
    )


def object_size_px(sides: Sequence[Array]) -> float:
    """The side that only one object in a thousand exceeds."""
    every = np.concatenate([*sides, np.empty(0, np.int64)])
    return float(np.ceil(np.percentile(every, 99.9))) if every.size else 64.0
