"""The compiled heart of the maxima: every voxel climbs to its highest neighbour until it stands on a top. No checks.

`parent` (uint32, flat) points from each voxel to a higher one, or from a plateau to its first voxel; OUTSIDE where the
mask is false. Tops are their own parents. Passes between domes are found at the seams of these basins alone, so that
nothing has to be sorted but the few seams shallower than h.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.lists import lengthened

OUTSIDE = 0xFFFFFFFF


@njit(nogil=True, cache=True, error_model="numpy")
def climb(
    values: NDArray[np.float32],
    parent: NDArray[np.uint32],
    steps: NDArray[np.int64],
    offsets: NDArray[np.uint64],
    begin: int,
    end: int,
    depth: int,
    height: int,
    width: int,
) -> None:
    """Point the voxels of rows begin ... end to their highest neighbour if it is higher, else to themselves.

    On entry `parent` is OUTSIDE outside the mask and anything else inside.
    """
    outside = np.uint32(OUTSIDE)
    for line in range(begin, end):
        z, y = line // height, line % height
        inside_row = 0 < y < height - 1 and (depth == 1 or 0 < z < depth - 1)
        for x in range(width):
            i = np.uint64(line * width + x)
            if parent[i] == outside:
                continue
            inside = inside_row and 0 < x < width - 1
            best, value = i, values[i]
            for k in range(len(steps)):
                if not inside:
                    nz, ny, nx = z + steps[k, 0], y + steps[k, 1], x + steps[k, 2]
                    if nx < 0 or nx >= width or ny < 0 or ny >= height or nz < 0 or nz >= depth:
                        continue
                other = i + offsets[k]
                if values[other] > value and parent[other] != outside:
                    best, value = other, values[other]
            parent[i] = best


@njit(nogil=True, cache=True, error_model="numpy")
def _top(parent: NDArray[np.uint32], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = int(parent[i])
    return i


@njit(nogil=True, cache=True, error_model="numpy")
def join_plateaus(
    values: NDArray[np.float32],
    parent: NDArray[np.uint32],
    steps: NDArray[np.int64],
    depth: int,
    height: int,
    width: int,
) -> None:
    """Give each plateau one root: its first voxel, or the way up from it if there is one."""
    outside = np.uint32(OUTSIDE)
    for i in range(parent.size):
        if parent[i] == outside or values[parent[i]] > values[i]:
            continue
        value = values[i]
        z, y, x = i // (height * width), i // width % height, i % width
        for k in range(len(steps)):
            nz, ny, nx = z + steps[k, 0], y + steps[k, 1], x + steps[k, 2]
            if nx < 0 or nx >= width or ny < 0 or ny >= height or nz < 0 or nz >= depth:
                continue
            other = (nz * height + ny) * width + nx
            if values[other] != value or parent[other] == outside:
                continue
            mine, theirs = _top(parent, i), _top(parent, other)
            if mine == theirs:
                continue
            if values[mine] == value and (values[theirs] > value or theirs < mine):
                parent[mine] = theirs
            elif values[theirs] == value:
                parent[theirs] = mine


@njit(nogil=True, cache=True, error_model="numpy")
def flatten(parent: NDArray[np.uint32], begin: int, end: int) -> NDArray[np.int64]:
    """Point the voxels begin ... end to their tops directly; the tops among them. Threads may overlap in time."""
    tops = np.empty(64, np.int64)
    count = 0
    for i in range(begin, end):
        if parent[i] == np.uint32(OUTSIDE):
            continue
        top = np.int64(parent[i])
        while parent[top] != top:
            top = np.int64(parent[top])
        parent[i] = top
        if top == i:
            if count == tops.size:
                tops = lengthened(tops, count, 2 * count)
            tops[count] = i
            count += 1
    return tops[:count].copy()


@njit(nogil=True, cache=True, error_model="numpy")
def shallow_seams(
    values: NDArray[np.float32],
    parent: NDArray[np.uint32],
    steps: NDArray[np.int64],
    offsets: NDArray[np.uint64],
    h: np.float32,
    begin: int,
    end: int,
    depth: int,
    height: int,
    width: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pairs of tops whose basins touch, and how high, for seams less than `h` below the lower top.

    A seam that is h or more below both tops can neither join two domes nor change which are peaks.
    """
    outside = np.uint32(OUTSIDE)
    pairs = np.empty(128, np.int64)
    passes = np.empty(64, np.float32)
    count = 0
    for line in range(begin, end):
        z, y = line // height, line % height
        inside_row = 0 < y < height - 1 and (depth == 1 or 0 < z < depth - 1)
        for x in range(width):
            i = np.uint64(line * width + x)
            mine = parent[i]
            if mine == outside:
                continue
            inside = inside_row and 0 < x < width - 1
            for k in range(len(steps)):
                if not inside:
                    nz, ny, nx = z + steps[k, 0], y + steps[k, 1], x + steps[k, 2]
                    if nx < 0 or nx >= width or ny < 0 or ny >= height or nz < 0 or nz >= depth:
                        continue
                other = i + offsets[k]
                theirs = parent[other]
                if theirs in (mine, outside):
                    continue
                seam = min(values[i], values[other])
                if min(values[mine], values[theirs]) - seam >= h:
                    continue
                if count == passes.size:
                    pairs = lengthened(pairs, 2 * count, 4 * count)
                    passes = lengthened(passes, count, 2 * count)
                pairs[2 * count], pairs[2 * count + 1] = mine, theirs
                passes[count] = seam
                count += 1
    return pairs[: 2 * count].copy().reshape(count, 2), passes[:count].copy()


@njit(nogil=True, cache=True, error_model="numpy")
def join_domes(
    heights: NDArray[np.float32], pairs: NDArray[np.int64], passes: NDArray[np.float32], h: np.float32
) -> NDArray[np.int64]:
    """Which tops are peaks of domes of height h: seams from high to low join domes, the lower one gives way.

    heights: of the tops, highest first, equal ones in raster order. Returns for each top itself when it is a peak, the
    top of equal height that stands for it, or -1.
    """
    n = heights.size
    parent = np.arange(n)
    peak = np.arange(n)
    for e in range(passes.size):
        a, b = pairs[e, 0], pairs[e, 1]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a == b:
            continue
        high, low = min(a, b), max(a, b)
        parent[low] = high
        if heights[low] - passes[e] < h:
            peak[low] = high if heights[low] == heights[high] else -1
    for i in range(n):
        # a stand-in comes before its twins, so that its own fate is known
        if peak[i] >= 0:
            peak[i] = i if peak[i] == i else (peak[peak[i]] if peak[peak[i]] >= 0 else -1)
    return peak


@njit(nogil=True, cache=True, error_model="numpy")
def mark_tops(
    values: NDArray[np.float32], parent: NDArray[np.uint32], begin: int, end: int, marked: NDArray[np.uint8]
) -> None:
    """Spread the mark of each top over its plateau."""
    for i in range(begin, end):
        top = parent[i]
        if top != np.uint32(OUTSIDE) and values[i] == values[top] and marked[top] != 0:
            marked[i] = 1
