"""Boxes and masks of detected objects: suppression of doubles, masks into a label image, ownership between tiles.

Boxes are (y0, x0, y1, x1), half-open, in pixels; scores decide, and among equal scores the earlier one.
Doubles are looked for in a grid, so that time grows with the number of boxes and of true neighbours, not its square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.errors import UsageError
from cellengine.geometry import Region

_LEVELS = 24  # sizes of boxes from one to the next a factor of two apart


def nms(
    boxes: NDArray[Any], scores: NDArray[Any], iou_threshold: float = 0.5, classes: NDArray[Any] | None = None
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression: indices of the boxes kept, best first.

    A box is dropped when its IoU with a better kept one (of the same class, if given) is above `iou_threshold`.
    boxes: (n, 4), read as float32, any unit. O(n log n + pairs of near neighbours of like size); 40 bytes a box.
    """
    corners, order, kind = _checked(boxes, scores, classes)
    cells = _Grid(corners)
    keep = _suppress(corners, order, kind, *cells.arrays, np.float32(iou_threshold))
    return np.asarray(order[keep])


def nms_masks(
    boxes: NDArray[np.integer[Any]],
    masks: Sequence[NDArray[np.bool_]],
    scores: NDArray[Any],
    iou_threshold: float = 0.5,
    classes: NDArray[Any] | None = None,
) -> NDArray[np.int64]:
    """As `nms`, by the IoU of masks; masks[i] fills boxes[i], in whole pixels. Masks are compared where boxes meet."""
    corners, order, kind = _checked(boxes, scores, classes)
    whole = np.asarray(boxes, np.int64).reshape(-1, 4)
    shapes = whole[:, 2:] - whole[:, :2]
    for shape, mask in zip(shapes, masks, strict=True):
        if tuple(shape) != mask.shape:
            raise UsageError(
                f"A mask of shape {mask.shape} was given for a box of {tuple(shape)} pixels: they must agree."
            )
    start = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))]).astype(np.int64)
    packed = np.concatenate([np.zeros(0, np.bool_), *(np.asarray(mask, np.bool_).reshape(-1) for mask in masks)])
    cells = _Grid(corners)
    keep = _suppress_masks(corners, whole, packed, start, order, kind, *cells.arrays, np.float32(iou_threshold))
    return np.asarray(order[keep])


def paste_masks(
    boxes: NDArray[Any],
    masks: NDArray[Any],
    shape: tuple[int, int],
    scores: NDArray[Any] | None = None,
    threshold: float = 0.5,
) -> NDArray[np.uint32]:
    """A label image from masks of fixed size: object i is label i + 1, the higher score lies on top.

    boxes: (n, 4), may leave the image; masks: (n, m, m) probabilities over their boxes, sampled bilinearly at pixel
    centres (beyond the outermost sample they count as 0, as in Mask R-CNN's pasting); a pixel belongs to the object
    where the sample is at least `threshold`. Without scores the earlier object lies on top. O(sum of box areas).
    """
    corners = np.ascontiguousarray(boxes, np.float32).reshape(-1, 4)
    grids = np.ascontiguousarray(masks, np.float32)
    if grids.ndim != 3 or len(grids) != len(corners):
        raise UsageError(
            f"Masks of shape {grids.shape} were given for {len(corners)} boxes: (n, height, width) expected."
        )
    rank = np.zeros(len(corners)) if scores is None else -np.asarray(scores, np.float64)
    labels = np.zeros(shape, np.uint32)
    _paste(corners, grids, np.argsort(rank, kind="stable"), np.float32(threshold), labels)
    return labels


def paste_mask(
    box: Sequence[float], mask: NDArray[Any], shape: tuple[int, int], threshold: float = 0.5
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """One mask at full size, as `nms_masks` takes it: its whole-pixel box inside the image, and its pixels there."""
    y0, x0 = max(int(np.floor(box[0])), 0), max(int(np.floor(box[1])), 0)
    y1, x1 = min(int(np.ceil(box[2])), shape[0]), min(int(np.ceil(box[3])), shape[1])
    y1, x1 = max(y1, y0), max(x1, x0)
    moved = np.asarray(box, np.float32) - np.array([y0, x0, y0, x0], np.float32)
    labels = paste_masks(moved[None], np.asarray(mask)[None], (y1 - y0, x1 - x0), threshold=threshold)
    return np.array([y0, x0, y1, x1], np.int64), labels > 0


def owned(boxes: NDArray[Any], core: Region) -> NDArray[np.bool_]:
    """Which boxes belong to the tile with this core: those whose centre lies in it. One core of a plan owns each."""
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    centre = (corners[:, :2] + corners[:, 2:]) / 2
    return np.asarray(((centre >= core.start[-2:]) & (centre < core.stop[-2:])).all(axis=1))


def _checked(
    boxes: NDArray[Any], scores: NDArray[Any], classes: NDArray[Any] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    corners = np.ascontiguousarray(boxes, np.float32).reshape(-1, 4)
    values = np.asarray(scores, np.float64).reshape(-1)
    kind = np.zeros(len(corners), np.int64) if classes is None else np.asarray(classes, np.int64).reshape(-1)
    if not len(corners) == len(values) == len(kind):
        raise UsageError(
            f"{len(corners)} boxes, {len(values)} scores and {len(kind)} classes were given: one each expected."
        )
    return corners, np.argsort(-values, kind="stable"), kind


class _Grid:
    """Where the kept boxes are listed: one grid a size of box, cells as wide as the boxes on it, by their centres."""

    def __init__(self, corners: NDArray[np.float32]) -> None:
        n = max(len(corners), 1)
        sides = (corners[:, 2:] - corners[:, :2]).max(axis=1) if len(corners) else np.ones(1, np.float32)
        low = corners[:, :2].min(axis=0) if len(corners) else np.zeros(2, np.float32)
        extent = (corners[:, 2:].max(axis=0) - low) if len(corners) else np.ones(2, np.float32)
        # no finer than four cells a box: then all grids together are about as large as the boxes themselves
        smallest = max(float(sides[sides > 0].min(initial=1e30)), float(extent.max()) / (2 * n**0.5 + 1), 1e-20)
        self.width = np.array([min(smallest, 1e20) * 2.0**level for level in range(_LEVELS)], np.float64)
        self.width[-1] = max(self.width[-1], float(sides.max(initial=0)))
        self.level = np.minimum(np.searchsorted(self.width, sides), _LEVELS - 1).astype(np.int64)
        self.low = low.astype(np.float64)
        self.count = (extent[None].astype(np.float64) / self.width[:, None]).astype(np.int64) + 1
        self.first = np.concatenate([[0], np.cumsum(self.count.prod(axis=1))]).astype(np.int64)

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """width, level, low, count, first: what a kernel needs."""
        return self.width, self.level, self.low, self.count, self.first


@njit(nogil=True, cache=True, error_model="numpy")
def _box_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> np.float32:
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return np.float32(0)
    both = height * width
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return np.float32(both / union)


@njit(nogil=True, cache=True, error_model="numpy")
def _cell(place: float, low: float, width: float, count: int) -> int:
    cell = int((place - low) / width)
    return 0 if cell < 0 else (count - 1 if cell >= count else cell)


@njit(nogil=True, cache=True, error_model="numpy")
def _near(
    corners: NDArray[np.float32],
    i: int,
    width: NDArray[np.float64],
    low: NDArray[np.float64],
    count: NDArray[np.int64],
    first: NDArray[np.int64],
    used: NDArray[np.bool_],
    head: NDArray[np.int64],
    following: NDArray[np.int64],
    threshold: np.float32,
    found: NDArray[np.int64],
) -> int:
    """Kept boxes that meet box i, into `found`; sizes of box that cannot reach the threshold are passed over."""
    n = 0
    area = np.float64(corners[i, 2] - corners[i, 0]) * np.float64(corners[i, 3] - corners[i, 1])
    for level in range(width.size):
        side = width[level]
        if not used[level] or side * side * 1.0001 < threshold * area:
            continue
        y_from = _cell(corners[i, 0] - side / 2, low[0], side, count[level, 0])
        y_to = _cell(corners[i, 2] + side / 2, low[0], side, count[level, 0])
        x_from = _cell(corners[i, 1] - side / 2, low[1], side, count[level, 1])
        x_to = _cell(corners[i, 3] + side / 2, low[1], side, count[level, 1])
        for y in range(y_from, y_to + 1):
            for x in range(x_from, x_to + 1):
                other = head[first[level] + y * count[level, 1] + x]
                while other >= 0:
                    if (
                        corners[other, 0] < corners[i, 2]
                        and corners[i, 0] < corners[other, 2]
                        and corners[other, 1] < corners[i, 3]
                        and corners[i, 1] < corners[other, 3]
                    ):
                        found[n] = other
                        n += 1
                    other = following[other]
    return n


@njit(nogil=True, cache=True, error_model="numpy")
def _list(
    corners: NDArray[np.float32],
    i: int,
    width: NDArray[np.float64],
    level: int,
    low: NDArray[np.float64],
    count: NDArray[np.int64],
    first: NDArray[np.int64],
    used: NDArray[np.bool_],
    head: NDArray[np.int64],
    following: NDArray[np.int64],
) -> None:
    y = _cell((corners[i, 0] + corners[i, 2]) / 2, low[0], width[level], count[level, 0])
    x = _cell((corners[i, 1] + corners[i, 3]) / 2, low[1], width[level], count[level, 1])
    cell = first[level] + y * count[level, 1] + x
    following[i] = head[cell]
    head[cell] = i
    used[level] = True


@njit(nogil=True, cache=True, error_model="numpy")
def _suppress(
    corners: NDArray[np.float32],
    order: NDArray[np.int64],
    kind: NDArray[np.int64],
    width: NDArray[np.float64],
    level: NDArray[np.int64],
    low: NDArray[np.float64],
    count: NDArray[np.int64],
    first: NDArray[np.int64],
    threshold: np.float32,
) -> NDArray[np.bool_]:
    head = np.full(first[-1], -1, np.int64)
    following = np.full(len(corners), -1, np.int64)
    used = np.zeros(width.size, np.bool_)
    found = np.empty(len(corners), np.int64)
    keep = np.zeros(order.size, np.bool_)
    for place in range(order.size):
        i = order[place]
        n = _near(corners, i, width, low, count, first, used, head, following, threshold, found)
        keep[place] = True
        for k in range(n):
            other = found[k]
            if kind[other] == kind[i] and _box_iou(corners[i], corners[other]) > threshold:
                keep[place] = False
                break
        if keep[place]:
            _list(corners, i, width, level[i], low, count, first, used, head, following)
    return keep


@njit(nogil=True, cache=True, error_model="numpy")
def _suppress_masks(
    corners: NDArray[np.float32],
    whole: NDArray[np.int64],
    masks: NDArray[np.bool_],
    start: NDArray[np.int64],
    order: NDArray[np.int64],
    kind: NDArray[np.int64],
    width: NDArray[np.float64],
    level: NDArray[np.int64],
    low: NDArray[np.float64],
    count: NDArray[np.int64],
    first: NDArray[np.int64],
    threshold: np.float32,
) -> NDArray[np.bool_]:
    head = np.full(first[-1], -1, np.int64)
    following = np.full(len(corners), -1, np.int64)
    used = np.zeros(width.size, np.bool_)
    found = np.empty(len(corners), np.int64)
    keep = np.zeros(order.size, np.bool_)
    size = np.zeros(len(corners), np.int64)
    for i in range(len(corners)):
        size[i] = masks[start[i] : start[i + 1]].sum()
    for place in range(order.size):
        i = order[place]
        # masks may fill little of their boxes: no size of box can be passed over
        n = _near(corners, i, width, low, count, first, used, head, following, np.float32(0), found)
        keep[place] = True
        a = whole[i]
        for k in range(n):
            other = found[k]
            if kind[other] != kind[i]:
                continue
            b = whole[other]
            x0, x1 = max(a[1], b[1]), min(a[3], b[3])
            both = 0
            for y in range(max(a[0], b[0]), min(a[2], b[2])):
                mine = start[i] + (y - a[0]) * (a[3] - a[1]) - a[1]
                theirs = start[other] + (y - b[0]) * (b[3] - b[1]) - b[1]
                for x in range(x0, x1):
                    both += int(masks[mine + x] and masks[theirs + x])
            union = size[i] + size[other] - both
            if union > 0 and both > threshold * union:
                keep[place] = False
                break
        if keep[place]:
            _list(corners, i, width, level[i], low, count, first, used, head, following)
    return keep


@njit(nogil=True, cache=True, error_model="numpy")
def _sample(mask: NDArray[np.float32], y: float, x: float) -> float:
    """Bilinear between samples, 0 beyond them."""
    y0, x0 = int(np.floor(y)), int(np.floor(x))
    value = 0.0
    for dy in range(2):
        for dx in range(2):
            if 0 <= y0 + dy < mask.shape[0] and 0 <= x0 + dx < mask.shape[1]:
                weight = (1 - abs(y - y0 - dy)) * (1 - abs(x - x0 - dx))
                value += weight * mask[y0 + dy, x0 + dx]
    return value


@njit(nogil=True, cache=True, error_model="numpy")
def _paste(
    corners: NDArray[np.float32],
    masks: NDArray[np.float32],
    order: NDArray[np.int64],
    threshold: np.float32,
    labels: NDArray[np.uint32],
) -> None:
    for i in order:
        top, left, bottom, right = corners[i]
        if not (bottom > top and right > left):
            continue
        scale_y, scale_x = masks.shape[1] / (bottom - top), masks.shape[2] / (right - left)
        for y in range(max(int(np.floor(top)), 0), min(int(np.ceil(bottom)), labels.shape[0])):
            for x in range(max(int(np.floor(left)), 0), min(int(np.ceil(right)), labels.shape[1])):
                if labels[y, x] == 0:
                    value = _sample(masks[i], (y + 0.5 - top) * scale_y - 0.5, (x + 0.5 - left) * scale_x - 0.5)
                    if value >= threshold:
                        labels[y, x] = i + 1
