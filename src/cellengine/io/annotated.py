"""Annotated pictures on disk: a CSV or a folder that says which label image belongs to which picture, and its split."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellengine.errors import InputError, UsageError
from cellengine.geometry import Region
from cellengine.io.axes import Array
from cellengine.io.opening import open_source


@dataclass(frozen=True, slots=True)
class Item:
    """One annotated picture."""

    image: Path
    label: Path
    split: str
    """train or val"""
    group: str
    """pictures of one group (one field of view) never meet across splits"""
    kind: str
    """value of the column that samples are balanced and scores are listed by"""


@dataclass(frozen=True, slots=True)
class Picture:
    """An annotated picture in memory."""

    item: Item
    image: Array
    """(C, *spatial), as stored"""
    labels: Array
    """(*spatial) integers, 0 is background"""


def list_annotated(
    path: Path, *, kind_column: str | None = None, validation_share: float = 0.15, seed: int = 1
) -> list[Item]:
    """Every annotated picture with its split.

    `path` is a CSV with the columns image and label (paths relative to it) and optionally split, group and others; or
    a folder with the subfolders images and labels, matched by stem. Without a column split, `validation_share` of
    the groups is drawn for validation by `seed`.

    Raises UsageError when `path` does not exist, InputError for anything that would spoil a training: all missing
    files and groups in two splits are listed before the first is read.
    """
    if path.is_dir():
        rows, root = _rows_of_folder(path), path
    elif path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            rows, root = list(csv.DictReader(file)), path.parent
    else:
        raise UsageError(f"{path} does not exist; expected a CSV, or a folder with images/ and labels/.")
    if not rows or not {"image", "label"} <= set(rows[0]):
        raise InputError(f"{path}: found the columns {sorted(rows[0]) if rows else []}, expected image and label.")
    if kind_column and kind_column not in rows[0]:
        raise InputError(f"{path}: no column {kind_column!r}; found {', '.join(rows[0])}.")
    groups = [row.get("group") or row["image"] for row in rows]
    splits = [row["split"] for row in rows] if "split" in rows[0] else _draw(groups, validation_share, seed)
    items = [
        Item(root / row["image"], root / row["label"], split, group, row[kind_column] if kind_column else "")
        for row, split, group in zip(rows, splits, groups, strict=True)
    ]
    _check(items)
    return items


def read_annotated(item: Item) -> Picture:
    """Read image and labels. Raises InputError when their shapes differ."""
    with open_source(item.image) as source:
        image = source.read(Region.whole(source.shape))
        image = image if "C" in source.axes else image[None]
    with open_source(item.label) as source:
        labels = source.read(Region.whole(source.shape))
    if image.shape[1:] != labels.shape:
        raise InputError(
            f"{item.label}: the labels are {labels.shape}, the picture {item.image.name} is {image.shape[1:]}; "
            "they must cover the same voxels."
        )
    if labels.dtype.kind not in "ui":
        raise InputError(f"{item.label}: labels of type {labels.dtype}; expected whole numbers, one a cell.")
    return Picture(item, np.ascontiguousarray(image), labels)


def _rows_of_folder(folder: Path) -> list[dict[str, str]]:
    images, labels = ({p.stem: p for p in sorted((folder / sub).glob("*.*"))} for sub in ("images", "labels"))
    missing = sorted(set(images) - set(labels))
    if not images or missing:
        found = f"no label picture for {', '.join(missing[:5])}" if missing else "no pictures in images/"
        raise InputError(f"{folder}: {found}; expected images/NAME.* and labels/NAME.* in pairs.")
    return [{"image": f"images/{images[s].name}", "label": f"labels/{labels[s].name}"} for s in images]


def _draw(groups: Sequence[str], share: float, seed: int) -> list[str]:
    """Seeded split by group; at least one group on each side."""
    names = sorted(set(groups))
    if len(names) < 2:
        raise InputError(f"Found {len(names)} group of pictures; at least two are needed, to train and to validate.")
    order = np.random.default_rng(seed).permutation(len(names))
    count = min(max(1, round(share * len(names))), len(names) - 1)
    held = {names[i] for i in order[:count]}
    return ["val" if g in held else "train" for g in groups]


def _check(items: Sequence[Item]) -> None:
    problems = [f"{p} does not exist" for i in items for p in (i.image, i.label) if not p.is_file()]
    by_split = {s: {i.group for i in items if i.split == s} for s in ("train", "val")}
    problems += [f"the group {g} is in both train and val" for g in sorted(by_split["train"] & by_split["val"])]
    problems += [f"no picture has the split {s}" for s, groups in by_split.items() if not groups]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(f"The annotated pictures cannot be used: {'; '.join(problems[:5])}{more}.")
