"""Outlines of objects as polygons along the edges of their pixels: exact, so that a polygon covers its object again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]

_DX = np.array([1, 0, -1, 0], np.int64)
_DY = np.array([0, 1, 0, -1], np.int64)


def trace_outlines(labels: Array) -> tuple[Array, Array, Array]:
    """Every closed line between an object and what is not the object, in a label image (y, x); 0 is background.

    Returns `vertices`, int32 (n, 2), the corners as x, y in px (pixel 0 reaches from 0 to 1); `starts`, int64, where
    each ring begins in them, and one more for the end; and `owners`, the label of each ring. Walking along a ring has
    the object on the right hand: outer rings have a positive area (`ring_area`), holes a negative one. Pixels that
    touch only at a corner are parts by themselves, and a hole that opens only at a corner is a ring of its own: rings
    may touch in a point, but none meets itself, as geometry libraries want it.

    One pass over the pixels and one along the edges; memory is one byte a pixel and 20 bytes an edge.
    """
    labels = np.ascontiguousarray(labels)
    edges, tops = _count_edges(labels)
    outer, inner = (_room(edges, tops + edges // 4, labels.dtype) for _ in range(2))
    found = _trace(labels, *outer, *inner, np.empty(edges, np.int32))
    (vertices, starts, owners), (cut, cut_starts, cut_owners) = (
        (room[0][:used], room[1][: rings + 1], room[2][:rings])
        for room, (used, rings) in zip((outer, inner), (found[:2], found[2:]), strict=True)
    )
    return (
        np.concatenate([vertices, cut]),
        np.concatenate([starts, cut_starts[1:] + starts[-1]]),
        np.concatenate([owners, cut_owners]),
    )


def _room(edges: int, rings: int, dtype: Any) -> tuple[Array, Array, Array]:
    """For corners, starts of rings, and owners; as many as there can be."""
    return (
        np.empty((edges, 2), np.int32),
        np.zeros(rings + edges // 4 + 1, np.int64),
        np.empty(rings + edges // 4, dtype),
    )


def ring_area(ring: Array) -> float:
    """Signed area of a ring of corners x, y, in px; positive for the outside of an object."""
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


@njit(nogil=True, cache=True)
def _count_edges(labels: Array) -> tuple[int, int]:
    """Edges between pixels of different labels, counted for both; and those at the top of an object's pixel."""
    height, width = labels.shape
    edges = tops = 0
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            if y == 0 or labels[y - 1, x] != label:
                edges += 1
                tops += 1
            if y + 1 == height or labels[y + 1, x] != label:
                edges += 1
            if x == 0 or labels[y, x - 1] != label:
                edges += 1
            if x + 1 == width or labels[y, x + 1] != label:
                edges += 1
    return edges, tops


@njit(nogil=True, cache=True)
def _trace(
    labels: Array,
    vertices: Array,
    starts: Array,
    owners: Array,
    cut: Array,
    cut_starts: Array,
    cut_owners: Array,
    marks: Array,
) -> tuple[int, int, int, int]:
    """Fill the first room with rings, the second with what is cut off where a ring comes back to one of its corners.

    `marks`: room for the places in `vertices` where the present ring could come back.
    """
    height, width = labels.shape
    walked = np.zeros((height, width), np.uint8)
    used = rings = cut_used = cut_rings = 0
    for top in range(height):
        for left in range(width):
            label = labels[top, left]
            if label == 0 or walked[top, left] or (top > 0 and labels[top - 1, left] == label):
                continue
            x, y, heading, marked = left, top, 0, 0
            owners[rings] = label
            while True:
                if heading == 0:
                    if walked[y, x]:
                        break
                    walked[y, x] = 1
                x += _DX[heading]
                y += _DY[heading]
                # pixels ahead: to the right hand and to the left hand of the corner that is reached
                ry, rx = y - (heading >= 2), x - (heading == 1 or heading == 2)
                ly, lx = y - (heading == 0 or heading == 3), x - (heading >= 2)
                right = 0 <= ry < height and 0 <= rx < width and labels[ry, rx] == label
                ahead = 0 <= ly < height and 0 <= lx < width and labels[ly, lx] == label
                if right and not ahead:
                    continue
                heading = (heading + 1) % 4 if not right else (heading + 3) % 4
                if not right and ahead:
                    # the object touches itself here: was this corner met before?
                    for mark in range(marked - 1, -1, -1):
                        first = marks[mark]
                        if vertices[first, 0] == x and vertices[first, 1] == y:
                            for i in range(first, used):
                                cut[cut_used, 0] = vertices[i, 0]
                                cut[cut_used, 1] = vertices[i, 1]
                                cut_used += 1
                            cut_owners[cut_rings] = label
                            cut_rings += 1
                            cut_starts[cut_rings] = cut_used
                            used, marked = first, mark
                            break
                    else:
                        marks[marked] = used
                        marked += 1
                vertices[used, 0] = x
                vertices[used, 1] = y
                used += 1
            rings += 1
            starts[rings] = used
    return used, rings, cut_used, cut_rings
