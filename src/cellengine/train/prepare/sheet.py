"""The overview of what was prepared: a sheet of small pictures with their labels outlined, framed by split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cellengine.engine.overlay import draw_plane
from cellengine.io import write_png

Array = NDArray[Any]
Item = TypeVar("Item")

SIDE_PX, FRAME_PX, MOST = 160, 3, 60
SPLIT_COLOURS = {"train": (70, 130, 220), "val": (240, 160, 40), "test": (200, 80, 200)}
_OTHER = (128, 128, 128)


def write_sheet(path: Path, items: Sequence[Item], draw: Callable[[Item], tuple[Array, str]]) -> None:
    """Write a PNG of at most 60 of `items`, evenly picked; `draw` gives one as (RGB uint8 of any size, split)."""
    picked = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(MOST, len(items))).round().astype(int))]
    columns = ceil(sqrt(len(picked) * 1.5))
    cell = SIDE_PX + 2 * FRAME_PX
    sheet = np.zeros((ceil(len(picked) / columns) * cell, columns * cell, 3), np.uint8)
    for number, item in enumerate(picked):
        pixels, split = draw(item)
        y, x = (n * cell for n in divmod(number, columns))
        sheet[y : y + cell, x : x + cell] = SPLIT_COLOURS.get(split, _OTHER)
        sheet[y + FRAME_PX : y + cell - FRAME_PX, x + FRAME_PX : x + cell - FRAME_PX] = _fitted(pixels)
    write_png(path, sheet)


def draw_labelled(image: Array, labels: Array, *, is_rgb: bool) -> Array:
    """RGB of a picture (C, Y, X) with labels (Y, X) outlined; thinned or enlarged first, so that lines stay thin.

    Of a volume (C, Z, Y, X) with (Z, Y, X) the plane with most labelled voxels is shown.
    """
    if labels.ndim == 3:
        plane = int((labels != 0).sum(axis=(1, 2)).argmax())
        image, labels = image[:, plane], labels[plane]
    longest = max(labels.shape)
    step, times = max(1, longest // SIDE_PX), max(1, SIDE_PX // longest)
    image, labels = image[:, ::step, ::step], labels[::step, ::step]
    image, labels = (a.repeat(times, -1).repeat(times, -2) for a in (image, labels))
    return draw_plane(image, labels.astype(np.uint32), is_rgb)


def _fitted(pixels: Array) -> Array:
    """The picture in a black square of SIDE_PX, its longer side filling it; nearest neighbour."""
    height, width = pixels.shape[:2]
    scale = SIDE_PX / max(height, width)
    rows = np.minimum((np.arange(max(1, round(height * scale))) / scale).astype(int), height - 1)
    columns = np.minimum((np.arange(max(1, round(width * scale))) / scale).astype(int), width - 1)
    square = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    shown = pixels[rows[:, None], columns][:SIDE_PX, :SIDE_PX]
    square[: shown.shape[0], : shown.shape[1]] = shown
    return square
