"""The real pictures that an export is verified and calibrated on: lists, boxes or crops, as the model's task asks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cellengine.export.verify import Annotated
from cellengine.io.annotated import Item, Picture, list_annotated, read_annotated
from cellengine.io.boxes import Boxed, is_box_list, list_boxed, read_boxed
from cellengine.io.crops import Crop, read_crops
from cellengine.io.lists import Where
from cellengine.spec import ModelSpec

Load = Callable[[], Annotated]


@dataclass(frozen=True, slots=True)
class Reading:
    """How a run read its list: settings that a list of pictures does not hold itself."""

    where: Where = field(default_factory=dict)
    """rows that were used"""
    axes: str = ""
    label: str = "label"

    @classmethod
    def of_run(cls, checkpoint: Mapping[str, Any]) -> Reading:
        """What a checkpoint says; a list that is not the run's own may be read alike."""
        data = json.loads(checkpoint.get("config", "{}")).get("data", {})
        return cls(data.get("where", {}), data.get("axes", ""), data.get("label", "label"))


def list_by_split(path: Path, spec: ModelSpec, reading: Reading) -> dict[str, list[Load]]:
    """Functions that read one picture each, by split. Raises UsageError or InputError for what cannot be used."""
    if spec.task == "classification":
        size = (spec.tile[0], spec.tile[1])
        crops = read_crops(path, spec.classes, size, label=reading.label, where=reading.where)
        return _by_split((crop.split, partial(_of_crop, crop)) for crop in crops)
    if is_box_list(path):
        listed = list_boxed(path, where=reading.where)
        return _by_split((entry.item.split, partial(_of_boxes, entry)) for entry in listed)
    items = list_annotated(path, where=reading.where or None, axes=reading.axes or None)
    return _by_split((item.split, partial(_of_item, item)) for item in items)


def _by_split(entries: Iterable[tuple[str, Load]]) -> dict[str, list[Load]]:
    found: dict[str, list[Load]] = {"train": [], "val": []}
    for split, load in entries:
        found.setdefault(split, []).append(load)
    return found


def _of_crop(crop: Crop) -> Annotated:
    return Annotated(crop.name, crop.image, np.array(crop.label))


def _of_boxes(boxed: Boxed) -> Annotated:
    return _of_picture(read_boxed(boxed))


def _of_item(item: Item) -> Annotated:
    return _of_picture(read_annotated(item))


def _of_picture(picture: Picture) -> Annotated:
    return Annotated(picture.item.image.name, picture.image, picture.labels)
