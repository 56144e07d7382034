"""The compiled heart of the suppression: kept boxes are listed in a grid, and each box looks for doubles near it alone.

One grid a size of box, so that a cell of any of them holds few: O(boxes + pairs of near neighbours of like size).
The rules for boxes and for masks share the grid and are loops of their own, as they differ in what they read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_LEVELS = 24  # sizes of boxes from one to the next a factor of two apart


class Grid:
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
def suppress(
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
    """Which boxes are kept, by place in `order`: none with a better kept one of its class above `threshold`."""
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
def suppress_masks(
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
    """As `suppress`, by the IoU of masks: that of box i is `masks` from start[i] on, over the pixels whole[i]."""
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
