"""What the kinds of two-dimensional pictures share: reading, writing, and the split by what pictures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellengine.errors import InputError
from cellengine.geometry import Region
from cellengine.io import create_sink, open_source, write_png
from cellengine.io.splits import draw_split
from cellengine.train.prepare.frame import Defect
from cellengine.train.prepare.looks import Look, group_looks
from cellengine.train.prepare.sheet import draw_labelled, write_sheet

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """How the items are shared out."""

    validation: float = 0.15
    """share of the items, whole groups at a time"""
    test: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.validation < 1 and 0 <= self.test < 1 and self.validation + self.test < 1):
            raise ValueError(f"shares of {self.validation} and {self.test}: expected positive ones below 1 together")

    @property
    def shares(self) -> dict[str, float]:
        """Share by name of the split."""
        shares = {"train": 1 - self.validation - self.test, "val": self.validation, "test": self.test}
        return {name: share for name, share in shares.items() if share > 0}


def read_picture(path: Path) -> Array:
    """A two-dimensional picture as (C, Y, X); of three equal channels one is kept. Raises InputError for others."""
    with open_source(path) as source:
        if source.axes not in ("YX", "CYX"):
            raise InputError(f"{path.name}: an image {source.shape} ({source.axes}); expected a picture (YX or CYX).")
        image = source.read(Region.whole(source.shape))
    image = image if image.ndim == 3 else image[None]
    same = len(image) == 3 and np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2])
    return image[:1] if same else image


def picture_suffix(image: Array) -> str:
    """`.png` where PNG holds the picture as the readers expect it, else `.tif`."""
    return ".png" if image.dtype == np.uint8 and len(image) in (1, 3) else ".tif"


def write_picture(path: Path, image: Array) -> None:
    """Write a picture (C, Y, X) of whole numbers under a name with `picture_suffix`; it appears complete."""
    if path.suffix == ".png":
        write_png(path, image[0] if len(image) == 1 else np.moveaxis(image, 0, -1))
        return
    if image.dtype.kind != "u":
        raise InputError(f"{path.stem}: pixels of type {image.dtype}; expected unsigned whole numbers.")
    stored = image[0] if len(image) == 1 else image
    with create_sink(path, stored.shape, "YX" if stored.ndim == 2 else "CYX", None, image.dtype) as sink:
        sink.write(Region.whole(stored.shape), stored)


def write_labels(path: Path, labels: Array) -> None:
    """Write a label image (Y, X) as TIFF, uint16 where the labels fit."""
    kind = np.uint16 if int(labels.max(initial=0)) < 2**16 else np.uint32
    with create_sink(path, labels.shape, "YX", None, kind) as sink:
        sink.write(Region.whole(labels.shape), labels.astype(kind))


@dataclass(frozen=True, slots=True)
class Shares:
    """Who goes where, one entry a picture."""

    groups: list[str]
    splits: list[str]
    copies: list[Defect]
    """pictures that show the same as an earlier one"""
    neighbours: int
    """pairs of neighbouring tiles"""


def split_by_looks(
    names: Sequence[str], kinds: Sequence[str], looks: Sequence[Look], options: SplitOptions, *, tiles: bool
) -> Shares:
    """Share pictures out: those that show the same or continue each other together, each kind alike."""
    groups = group_looks(looks, tiles=tiles)
    named = [names[first] for first in groups.group]
    copies = [Defect(names[b], f"it shows the same as {names[a]}", "kept, in the same split") for a, b in groups.copies]
    splits = draw_split(named, options.shares, options.seed, kinds)
    return Shares(named, splits, copies, len(groups.neighbours))


def write_picture_sheet(path: Path, output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The overview of rows with `image`, `label` and `split`."""

    def draw(row: Mapping[str, Any]) -> tuple[Array, str]:
        image, labels = read_picture(output / row["image"]), read_picture(output / row["label"])[0]
        return draw_labelled(image, labels, is_rgb=len(image) == 3), str(row["split"])

    write_sheet(path, rows, draw)
