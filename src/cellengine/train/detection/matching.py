"""Which anchors lie on which object: each object looks at the anchors around it only, whatever the picture's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.models.detection.anchors import anchor_shapes
from cellengine.models.detection.config import MaskRCNNConfig
from cellengine.train.detection.settings import DetectionConfig

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class AnchorGrid:
    """The anchors of every level of a crop, in the order of `models.detection.anchors.level_anchors`."""

    shapes: NDArray[np.float32]
    """(levels, ratios, 4): x0, y0, x1, y1 around a feature's first pixel"""
    strides: NDArray[np.int64]
    sides: NDArray[np.int64]
    """(levels, 2): features along y and x"""
    first: NDArray[np.int64]
    """(levels + 1,): number of the first anchor of each level, and of all of them"""

    @classmethod
    def of(cls, config: MaskRCNNConfig, crop_px: tuple[int, ...]) -> AnchorGrid:
        """The anchors of a crop (height, width)."""
        strides = np.array(config.strides, np.int64)
        shapes = np.array([anchor_shapes(side, config.anchor_ratios) for side in config.anchor_px], np.float32)
        sides = np.array(crop_px, np.int64) // strides[:, None]
        counts = sides.prod(axis=1) * len(config.anchor_ratios)
        return cls(shapes, strides, sides, np.concatenate([[0], np.cumsum(counts)]))

    def boxes(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Boxes (n, 4) of anchors by number: x0, y0, x1, y1 in px."""
        level = np.searchsorted(self.first, index, side="right") - 1
        place, shape = np.divmod(index - self.first[level], self.shapes.shape[1])
        y, x = np.divmod(place, self.sides[level, 1])
        at = np.stack([x, y, x, y], axis=1) * self.strides[level, None]
        return (self.shapes[level, shape] + at).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Matches:
    """For every anchor of a crop: how well it fits an object, which one, and whether none fits that object better."""

    iou: NDArray[np.float32]
    owner: NDArray[np.int64]
    """number of the object it overlaps most; 0 where it meets none"""
    is_best: NDArray[np.bool_]


def match_anchors(objects: Array, grid: AnchorGrid) -> Matches:
    """Match all anchors of `grid` with `objects` (n, 4): x0, y0, x1, y1 in px, none empty.

    Of objects that an anchor overlaps alike, the first owns it. O(anchors + objects x anchors around each); 13 bytes
    an anchor.
    """
    count = int(grid.first[-1])
    iou, owner, best = np.zeros(count, np.float32), np.zeros(count, np.int64), np.zeros(count, np.bool_)
    boxes = np.ascontiguousarray(objects, np.float32)
    highest = np.zeros(len(boxes), np.float32)
    for is_second in (False, True):
        _visit(boxes, grid.shapes, grid.strides, grid.sides, grid.first, iou, owner, highest, best, is_second)
    return Matches(iou, owner, best)


def sample_anchors(
    matches: Matches, settings: DetectionConfig, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Numbers of `settings.anchors` anchors, and their state: 1 on an object, 0 on background, -1 to fill up."""
    low, high = settings.anchor_iou
    is_object = (matches.iou >= high) | matches.is_best
    positive = np.flatnonzero(is_object)
    positive = random.permutation(positive)[: int(settings.anchors * settings.positive_anchors)]
    negative = np.flatnonzero((matches.iou < low) & ~is_object)
    negative = random.permutation(negative)[: settings.anchors - len(positive)]
    index, state = np.zeros(settings.anchors, np.int64), np.full(settings.anchors, -1, np.float32)
    index[: len(positive)], state[: len(positive)] = positive, 1
    both = len(positive) + len(negative)
    index[len(positive) : both], state[len(positive) : both] = negative, 0
    return index, state


@njit(nogil=True, cache=True, error_model="numpy")
def _visit(
    objects: Array,
    shapes: Array,
    strides: Array,
    sides: Array,
    first: Array,
    iou: Array,
    owner: Array,
    highest: Array,
    best: Array,
    is_second: bool,
) -> None:
    """Every anchor that meets each object: first who owns it and how high each object gets, then who got as high."""
    for number in range(objects.shape[0]):
        x0, y0, x1, y1 = objects[number]
        own = (x1 - x0) * (y1 - y0)
        for level in range(shapes.shape[0]):
            stride, height, width = strides[level], sides[level, 0], sides[level, 1]
            for shape in range(shapes.shape[1]):
                left, top, right, bottom = shapes[level, shape]
                area = (right - left) * (bottom - top)
                for y in range(max(int((y0 - bottom) / stride), 0), min(int((y1 - top) / stride) + 1, height)):
                    tall = min(y1, y * stride + bottom) - max(y0, y * stride + top)
                    if tall <= 0:
                        continue
                    for x in range(max(int((x0 - right) / stride), 0), min(int((x1 - left) / stride) + 1, width)):
                        wide = min(x1, x * stride + right) - max(x0, x * stride + left)
                        if wide <= 0:
                            continue
                        both = wide * tall
                        value = np.float32(both / (own + area - both))
                        anchor = first[level] + (y * width + x) * shapes.shape[1] + shape
                        if is_second:
                            best[anchor] |= value == highest[number]
                            continue
                        highest[number] = max(highest[number], value)
                        if value > iou[anchor]:
                            iou[anchor], owner[anchor] = value, number
