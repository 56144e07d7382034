"""Lists of boxes: a CSV with one cell a row, as people draw them. Cells become ellipses inside their box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellengine.errors import InputError
from cellengine.geometry import Region
from cellengine.io.annotated import Item, Picture
from cellengine.io.axes import Array
from cellengine.io.lists import Where, first_column, read_rows
from cellengine.io.opening import open_source
from cellengine.io.splits import check_copies, check_splits, draw_split, join_copies, tell_apart

SIDES = ("xmin", "ymin", "xmax", "ymax")
IMAGE_COLUMNS = ("image", "file", "frame", "filename")


@dataclass(frozen=True, slots=True)
class Box:
    """One cell: a half-open box in px, and its class if the list names one."""

    y0: int
    x0: int
    y1: int
    x1: int
    label: str = ""

    @property
    def centre(self) -> tuple[int, int]:
        """Row and column of the middle px."""
        return (self.y0 + self.y1) // 2, (self.x0 + self.x1) // 2


@dataclass(frozen=True, slots=True)
class Boxed:
    """One picture of a list, with its cells."""

    item: Item
    """its label image is the list itself"""
    boxes: tuple[Box, ...]


def is_box_list(path: Path) -> bool:
    """Whether `path` is a CSV with the sides of boxes among its columns."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return set(SIDES) <= {name.strip() for name in file.readline().split(",")}


def list_boxed(
    path: Path,
    *,
    label_column: str = "label",
    where: Where | None = None,
    validation_share: float = 0.15,
    seed: int = 1,
) -> list[Boxed]:
    """Every picture that a list of boxes names, in the order of first mention, with its boxes.

    Columns: xmin, ymin, xmax, ymax in px; image, file, frame or filename, relative to the list; optionally split,
    group and `label_column`. Without a column split one is drawn by `seed`, whole groups at a time. Groups that hold
    copies of one picture count as one.

    Raises InputError for a picture that is missing, sides that are no numbers, boxes without extent, a split without
    pictures, or a picture (also a copy under another name) or group in two splits.
    """
    rows = read_rows(path, where or {})
    column = first_column(path, rows[0], IMAGE_COLUMNS, "the pictures")
    found: dict[str, list[Box]] = {}
    first: dict[str, Mapping[str, str]] = {}
    for number, row in enumerate(rows, 2):
        found.setdefault(row[column], []).append(_box(path, number, row, label_column))
        if row.get("split") != first.setdefault(row[column], row).get("split"):
            raise InputError(f"{path}: the picture {row[column]} is in two splits.")
    missing = [name for name in found if not (path.parent / name).is_file()]
    if missing:
        raise InputError(f"{path}: {missing[0]} does not exist ({len(missing)} of {len(found)} pictures are missing).")
    groups = [first[name].get("group") or name for name in found]
    contents = tell_apart([path.parent / name for name in found])
    joined = join_copies(groups, contents)
    if "split" in rows[0]:
        splits = [first[name]["split"] for name in found]
    else:
        splits = draw_split(joined, {"train": 1 - validation_share, "val": validation_share}, seed)
    check_splits(path, groups, splits)
    check_copies(path, list(found), contents, splits)
    return [
        Boxed(Item(path.parent / name, path, split, group, ""), tuple(boxes))
        for (name, boxes), split, group in zip(found.items(), splits, joined, strict=True)
    ]


def read_boxed(boxed: Boxed) -> Picture:
    """The picture, and labels in which each box holds the ellipse inscribed in it."""
    with open_source(boxed.item.image) as source:
        image = source.read(Region.whole(source.shape))
        image = image if "C" in source.axes else image[None]
    return Picture(boxed.item, np.ascontiguousarray(image), draw_ellipses(image.shape[1:], boxed.boxes))


def draw_ellipses(shape: tuple[int, ...], boxes: Sequence[Box]) -> Array:
    """Labels 1 ... n, uint32 of `shape` (Y, X), one ellipse a box; where two meet, the one whose middle is nearer.

    Nearness is measured in units of each ellipse's own radius. Boxes outside the picture leave nothing.
    """
    labels = np.zeros(shape, np.uint32)
    nearest = np.full(shape, np.inf)
    for number, box in enumerate(boxes, 1):
        window = tuple(
            slice(max(a, 0), max(min(b, n), 0))
            for a, b, n in zip((box.y0, box.x0), (box.y1, box.x1), shape, strict=True)
        )
        y, x = np.ogrid[window]
        down = (2 * y + 1 - box.y0 - box.y1) / (box.y1 - box.y0)
        across = (2 * x + 1 - box.x0 - box.x1) / (box.x1 - box.x0)
        radius = down**2 + across**2
        own = (radius <= 1) & (radius < nearest[window])
        labels[window][own] = number
        nearest[window][own] = radius[own]
    return labels


def _box(path: Path, number: int, row: Mapping[str, str], label_column: str) -> Box:
    try:
        x0, y0, x1, y1 = (round(float(row[side])) for side in SIDES)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}, line {number}: the sides of a box are numbers ({error}).") from error
    if x1 <= x0 or y1 <= y0:
        raise InputError(f"{path}, line {number}: the box {x0}, {y0}, {x1}, {y1} is empty; expected xmin < xmax.")
    return Box(y0, x0, y1, x1, row.get(label_column, ""))
