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
from cellengine.ops.suppression import Grid, suppress, suppress_masks


def nms(
    boxes: NDArray[Any], scores: NDArray[Any], iou_threshold: float = 0.5, classes: NDArray[Any] | None = None
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression: indices of the boxes kept, best first.

    A box is dropped when its IoU with a better kept one (of the same class, if given) is above `iou_threshold`.
    boxes: (n, 4), read as float32, any unit. O(n log n + pairs of near neighbours of like size); 40 bytes a box.
    """
    corners, order, kind = _checked(boxes, scores, classes)
    cells = Grid(corners)
    keep = suppress(corners, order, kind, *cells.arrays, np.float32(iou_threshold))
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
    cells = Grid(corners)
    keep = suppress_masks(corners, whole, packed, start, order, kind, *cells.arrays, np.float32(iou_threshold))
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
