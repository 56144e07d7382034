"""The picture that is looked at first: the image with an outline around every object."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
from numba import njit

from cellengine.engine.scene import Scene
from cellengine.geometry import Region

Array = np.ndarray[Any, Any]

LARGEST_PX, SMALLEST_PX = 2048, 768
"""an overlay's longer side; small pictures are enlarged so that an outline does not cover what it surrounds"""


def draw_overlay(scene: Scene, labels: Array, class_of: Array | None = None) -> Array:
    """RGB uint8 of one picture with its objects outlined; a volume shows its middle plane.

    `labels` has the scene's spatial shape. `class_of`, uint8 by label, colours objects by class; see
    `classes_by_label`. Pictures above 2048 px are reduced by a whole factor, without reading or copying more than the
    plane shown.
    """
    plane = [slice(n // 2, n // 2 + 1) for n in scene.shape[:-2]]
    place = Region((*(s.start for s in plane), 0, 0), (*(s.stop for s in plane), *scene.shape[-2:]))
    image = scene.read_all_channels(place)
    image = image.reshape(image.shape[0], *scene.shape[-2:])
    flat = labels[place.slices].reshape(scene.shape[-2:])
    longest = max(flat.shape)
    if longest > LARGEST_PX:
        step = ceil(longest / LARGEST_PX)
        image, flat = image[:, ::step, ::step], flat[::step, ::step]
    return _draw(image, flat, scene.source.is_rgb, class_of)


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a large picture that its overlay shows, and the labels there as they are found."""

    region: Region
    labels: Array
    told: list[tuple[Array, Array]] = field(default_factory=list)
    """labels and numbers of classes, where objects are coloured by class"""

    @classmethod
    def central(cls, shape: tuple[int, ...]) -> Window:
        """The centre of the middle plane of a picture."""
        sides = (1,) * (len(shape) - 2) + tuple(min(n, LARGEST_PX) for n in shape[-2:])
        start = tuple(n // 2 if s == 1 else (n - s) // 2 for n, s in zip(shape, sides, strict=True))
        region = Region(start, tuple(a + s for a, s in zip(start, sides, strict=True)))
        return cls(region.intersect(Region.whole(shape)), np.zeros(sides, np.uint32))

    def take(self, region: Region, labels: Array) -> None:
        """Keep what the window shows of the labels of a box of the picture."""
        part = self.region.intersect(region)
        if part.size:
            self.labels[part.relative_to(self.region)] = labels[part.relative_to(region)]

    def tell(self, labels: Array, names: Array, classes: Sequence[str]) -> None:
        """Colour the objects `labels` by their class, whose name is among `classes`; those elsewhere are forgotten."""
        shown = np.isin(labels, self.labels)
        self.told.append((np.asarray(labels)[shown], class_numbers(np.asarray(names)[shown], classes)))

    def draw(self, scene: Scene) -> Array:
        """RGB uint8 of the window with its objects outlined; what is small is enlarged."""
        image = scene.read_all_channels(self.region)
        image = image.reshape(len(image), *self.labels.shape[-2:])
        labels, class_of = self.labels.reshape(image.shape[1:]), None
        if self.told:
            found, classes = (np.concatenate(part) for part in zip(*self.told, strict=True))
            order = np.argsort(found)
            labels = np.where(labels > 0, np.searchsorted(found[order], labels) + 1, 0)
            class_of = np.concatenate([np.zeros(1, np.uint8), classes[order]])
        return _draw(image, labels, scene.source.is_rgb, class_of)


def class_numbers(names: Array, classes: Sequence[str]) -> Array:
    """The number in `classes` of each of `names`, uint8."""
    numbers = np.zeros(len(names), np.uint8)
    for i, name in enumerate(classes):
        numbers[names == name] = i
    return numbers


def classes_by_label(labels: Array, names: Array, classes: Sequence[str]) -> Array:
    """uint8 (highest label + 1): the number in `classes` of what each of `labels` is; 0 for others."""
    class_of = np.zeros(int(labels.max(initial=0)) + 1, np.uint8)
    class_of[labels] = class_numbers(names, classes)
    return class_of


def _draw(image: Array, labels: Array, is_rgb: bool, class_of: Array | None = None) -> Array:
    return draw_plane(image, labels, is_rgb, max(1, SMALLEST_PX // max(labels.shape)), class_of)


def draw_plane(image: Array, labels: Array, is_rgb: bool, times: int = 1, class_of: Array | None = None) -> Array:
    """RGB uint8 of one plane, image (C, y, x), with its objects, labels (y, x), outlined; `times` as large.

    Outlines tell neighbours apart, or with `class_of` (uint8 by label) classes.
    """
    base, shown = _to_rgb(image, is_rgb), np.ascontiguousarray(labels, np.uint32)
    if times > 1:
        base, shown = (np.repeat(np.repeat(a, times, 0), times, 1) for a in (base, shown))
    if class_of is None:
        _draw_outlines(base, shown, np.arange(len(PALETTE), dtype=np.uint8), PALETTE)
    else:
        _draw_outlines(base, shown, class_of, CLASS_COLOURS)
    return base


def _to_rgb(image: Array, is_rgb: bool) -> Array:
    """Stretch between the percentiles 0.5 and 99.8; of channels that are no colours the first three are shown."""
    if is_rgb and image.dtype == np.uint8:
        return np.moveaxis(image[:3], 0, -1).copy()  # never the picture itself: outlines are drawn into it
    rgb = np.zeros((*image.shape[1:], 3), np.uint8)
    for i, channel in enumerate(image[:3]):
        sample = channel[:: max(1, channel.shape[0] // 512), :: max(1, channel.shape[1] // 512)]
        finite = sample[np.isfinite(sample)]
        low, high = np.percentile(finite, (0.5, 99.8)) if finite.size else (0.0, 1.0)
        scale = np.float32(255 / (high - low) if high > low else 0.0)
        shown = np.clip((channel.astype(np.float32) - np.float32(low)) * scale, 0, 255)
        rgb[..., i] = np.nan_to_num(shown).astype(np.uint8)
    if len(image) == 1:
        rgb[..., 1] = rgb[..., 2] = rgb[..., 0]
    return rgb


@njit(nogil=True, cache=True)
def _draw_outlines(rgb: Array, labels: Array, colour_of: Array, palette: Array) -> None:
    """Colour every object's own border pixels; the table of colours begins anew for labels beyond its end."""
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            edge = (
                (y > 0 and labels[y - 1, x] != label)
                or (x > 0 and labels[y, x - 1] != label)
                or (y + 1 < height and labels[y + 1, x] != label)
                or (x + 1 < width and labels[y, x + 1] != label)
            )
            if edge:
                colour = palette[colour_of[label % len(colour_of)] % len(palette)]
                for c in range(3):
                    rgb[y, x, c] = colour[c]


def _palette(count: int) -> Array:
    """Bright, saturated colours; the golden ratio keeps numbers that follow each other far apart in hue."""
    hues = (np.arange(count) * 0.618034) % 1.0
    return np.array([[round(255 * v) for v in colorsys.hsv_to_rgb(h, 0.85, 1.0)] for h in hues], np.uint8)


PALETTE = _palette(61)
CLASS_COLOURS = np.array(
    [[0, 220, 130], [255, 90, 0], [60, 160, 255], [240, 228, 66], [255, 120, 220], [0, 230, 230]], np.uint8
)
"""green, orange, blue, yellow, pink, cyan: in the order of the classes; the colour-blind can tell the first apart"""
