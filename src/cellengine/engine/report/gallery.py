"""Small pictures of the objects and places that a report points at, cut from the inputs and drawn with outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from cellengine.engine.overlay import draw_plane
from cellengine.engine.report.statistics import Place
from cellengine.errors import CellengineError
from cellengine.geometry import Region
from cellengine.io import ImageSource, open_source
from cellengine.io.previews import encode_png
from cellengine.pages.html import Figure, png_url

Array = np.ndarray[Any, Any]

SURROUNDINGS = 2.5
"""a picture shows so many times the object's side"""
SMALLEST_PX, LARGEST_PX, SHOWN_PX = 40, 320, 240
"""side of what is cut out, at least and at most; small ones are enlarged to about the last"""
CACHE_BYTES = 16 << 20


def draw_places(output: Path, run: Mapping[str, Any], places: Sequence[tuple[str, Place]]) -> dict[int, Figure]:
    """Pictures of places with their captions, by their number in `places`, as far as inputs can still be read.

    A file is opened once, and only the part around each place is read where the format allows that.
    """
    drawn: dict[int, Figure] = {}
    settings = run["settings"]
    by_file = sorted(range(len(places)), key=lambda i: places[i][1].file)
    for name, numbers in groupby(by_file, key=lambda i: places[i][1].file):
        record = run["files"][name]
        labels = next((output / n for n in record["outputs"] if ".labels." in n), None)
        if labels is None:
            continue
        with ExitStack() as held:
            try:
                source = held.enter_context(
                    open_source(
                        record["source"],
                        axes=settings.get("axes"),
                        dataset=settings.get("dataset"),
                        cache_bytes=CACHE_BYTES,
                    )
                )
                found = held.enter_context(open_source(labels, cache_bytes=CACHE_BYTES))
                if _plane(source) != _plane(found):
                    continue  # another picture took its place after it was labelled
                for i in numbers:
                    drawn[i] = _draw(source, found, settings.get("timepoint"), *places[i])
            except CellengineError:
                continue  # an input that has gone since: the page lists its objects without pictures
    return drawn


def _draw(source: ImageSource, labels: ImageSource, timepoint: int | None, caption: str, place: Place) -> Figure:
    box = _box(place, _plane(source))
    at = {**place.at, **({"t": timepoint} if timepoint is not None else {})}
    if len(place.centre) == 3:
        at["z"] = int(place.centre[0])
    image, outlines = _cut(source, at, box), _cut(labels, at, box).astype(np.uint32)
    pixels = draw_plane(image, outlines[0], source.is_rgb, max(1, SHOWN_PX // max(outlines.shape)))
    return Figure(png_url(encode_png(pixels)), f"Outlined objects of {place.file}", caption)


def _plane(source: ImageSource) -> tuple[int, int]:
    """Height and width."""
    return source.shape[source.axes.index("Y")], source.shape[source.axes.index("X")]


def _box(place: Place, shape: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Bounds in y and x around the centre, inside the picture."""
    side = int(min(max(place.side * (SURROUNDINGS if place.label is not None else 1), SMALLEST_PX), LARGEST_PX))
    bounds = []
    for centre, length in zip(place.centre[-2:], shape, strict=True):
        start = min(max(0, int(centre) - side // 2), max(0, length - side))
        bounds.append((start, min(length, start + side)))
    return bounds[0], bounds[1]


def _cut(source: ImageSource, at: Mapping[str, int], box: tuple[tuple[int, int], tuple[int, int]]) -> Array:
    """(C, y, x) of a box in the plane `at`."""
    bounds = []
    for axis, length in zip(source.axes, source.shape, strict=True):
        if axis in "YX":
            bounds.append(box["YX".index(axis)])
        elif axis == "C":
            bounds.append((0, length))
        else:
            place = min(at.get(axis.lower(), 0), length - 1)
            bounds.append((place, place + 1))
    block = source.read(Region(tuple(a for a, _ in bounds), tuple(b for _, b in bounds)))
    kept = [axis for axis in source.axes if axis in "CYX"]
    block = block.reshape([n for n, axis in zip(block.shape, source.axes, strict=True) if axis in kept])
    return np.moveaxis(block, kept.index("C"), 0) if "C" in kept else block[None]
