"""The compiled heart of the seeds: maxima that rise at least h above every pass to a higher one. No checks.

Voxels are taken from high to low and joined by union-find, so that each set is a dome and its root its peak. Where two
domes meet, the lower one has found its pass; the higher one goes on.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.order import ordered_keys, radix_sort


@njit(nogil=True, cache=True, error_model="numpy")
def sort_descending(
    values: NDArray[np.float32], voxels: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Order values[voxels] from high to low, equal ones as they come: the voxels in that order, and each one's rank.

    Equal values share a rank; ranks count from 0 without gaps.
    """
    n = voxels.size
    order = voxels.copy()
    keys = np.empty(n, np.uint32)
    picked = np.empty(n, np.float32)
    for i in range(n):
        picked[i] = values[voxels[i]]
    ordered_keys(picked.view(np.uint32), keys, np.uint32(0xFFFFFFFF))
    rank = np.empty(n, np.uint32)
    radix_sort(keys, order, rank, np.empty(n, np.uint32))
    level = np.uint32(0)
    for i in range(n):
        if i > 0 and keys[i] != keys[i - 1]:
            level += np.uint32(1)
        rank[i] = level
    return order, rank


@njit(nogil=True, cache=True, error_model="numpy")
def _peak(parent: NDArray[np.int32], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True, error_model="numpy")
def find_domes(
    values: NDArray[np.float32],
    order: NDArray[np.uint32],
    place: NDArray[np.int32],
    offsets: NDArray[np.uint64],
    h: np.float32,
) -> NDArray[np.bool_]:
    """Which voxels of `order` (high to low) are the peaks of domes of height h and more.

    `place` is -1 for every voxel of the padded array on entry, and the place in `order` of each voxel on return;
    voxels that are not in `order` are never entered. The peak of a plateau is its first voxel in raster order. The
    highest voxel of each connected set of voxels is always a peak.
    """
    n = order.size
    parent = np.empty(n, np.int32)
    is_peak = np.zeros(n, np.bool_)
    for i in range(n):
        voxel = np.uint64(order[i])
        value = values[voxel]
        parent[i] = i
        place[voxel] = i
        mine = i
        for k in range(offsets.size):
            other = place[voxel + offsets[k]]
            if other < 0:
                continue
            root = _peak(parent, other)
            if root == mine:
                continue
            high, low = min(root, mine), max(root, mine)
            height = values[order[low]] - value
            if height > 0 and height >= h:
                is_peak[low] = True
            parent[low] = high
            mine = high
    for i in range(n):
        if parent[i] == i:
            is_peak[i] = True
    return is_peak
