"""The compiled heart of the distance decoder: each connected piece of the mask is smoothed, seeded and flooded alone.

A piece depends on nothing but its own voxels and the distance within the smoothing radius around its box, so pieces
can be worked on in any order, by any number of threads, or in different blocks of a picture, with the same result.
What is touched for one nucleus fits into a core's cache; a piece with a single peak is not flooded at all.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.domes import find_domes, sort_descending
from cellengine.ops.flood import FREE, flood, offsets_of
from cellengine.ops.lists import lengthened
from cellengine.ops.smooth import smooth_box


@njit(nogil=True, cache=True, error_model="numpy")
def split_components(
    distance: NDArray[np.float32],
    order: NDArray[np.int64],
    first: NDArray[np.int64],
    row: NDArray[np.int32],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    box: NDArray[np.int32],
    begin: int,
    end: int,
    taps_z: NDArray[np.float32],
    taps_y: NDArray[np.float32],
    taps_x: NDArray[np.float32],
    steps: tuple[tuple[int, int, int], ...],
    h: NDArray[np.float32],
    min_size: int,
    labels: NDArray[np.uint32],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label the components begin ... end, each from 1 on its own, into `labels` (flat); a single basin is left at 0.

    `h` has one entry for each component there is. Returns how many basins each component has, and for every basin the
    flat index of its first voxel, or -1 where the basin has fewer than `min_size` voxels and is to be dropped.
    """
    counts = np.ones(end - begin, np.int64)
    firsts = np.empty(2 * (end - begin) + 16, np.int64)
    total = 0
    height, width = distance.shape[1], distance.shape[2]
    pad_z = 1 if distance.shape[0] > 1 else 0
    for c in range(begin, end):
        z0, y0, x0, z1, y1, x1 = box[c]
        runs = order[first[c] : first[c + 1]]
        size = 0
        for r in runs:
            size += stop[r] - start[r]
        if size < min_size:
            counts[c - begin] = 0
            continue
        wide, high, deep = x1 - x0 + 2, y1 - y0 + 2, z1 - z0 + 2 * pad_z
        values = np.full(wide * high * deep, -np.inf, np.float32)
        voxels = np.empty(size, np.uint32)
        source = smooth_box(distance, box[c], taps_z, taps_y, taps_x)
        n = 0
        for r in runs:
            z, y = row[r] // height - z0, row[r] % height - y0
            base = ((z + pad_z) * high + y + 1) * wide + 1
            for x in range(start[r] - x0, stop[r] - x0):
                values[base + x] = source[z, y, x]
                voxels[n] = base + x
                n += 1
        offsets = offsets_of(steps, high, wide)
        if total + size // 4 + 16 > firsts.size:
            firsts = lengthened(firsts, total, 2 * firsts.size + size)
        if _has_one_top(values, voxels, offsets):
            firsts[total] = np.int64(row[runs[0]]) * width + start[runs[0]]
            total += 1
            continue
        basins, work = _flood_basins(values, voxels, steps, offsets, deep, high, wide, h[c])
        counts[c - begin] = basins
        if total + basins > firsts.size:
            firsts = lengthened(firsts, total, 2 * firsts.size + basins)
        if basins == 1:
            firsts[total] = np.int64(row[runs[0]]) * width + start[runs[0]]
            total += 1
            continue
        sizes = np.zeros(basins + 1, np.int64)
        for r in runs:
            z, y = row[r] // height - z0, row[r] % height - y0
            base = ((z + pad_z) * high + y + 1) * wide + 1
            target = np.int64(row[r]) * width
            for x in range(start[r], stop[r]):
                label = work[base + x - x0]
                if sizes[label] == 0:
                    firsts[total + np.int64(label) - 1] = target + x
                sizes[label] += 1
                labels[target + x] = label
        for label in range(1, basins + 1):
            if sizes[label] < min_size:
                firsts[total + label - 1] = -1
        total += basins
    return counts, firsts[:total].copy()


@njit(nogil=True, cache=True, error_model="numpy")
def _has_one_top(values: NDArray[np.float32], voxels: NDArray[np.uint32], offsets: NDArray[np.uint64]) -> bool:
    """Whether only one voxel has no higher neighbour: then there is one basin, whatever h."""
    tops = 0
    for i in range(voxels.size):
        voxel = np.uint64(voxels[i])
        value = values[voxel]
        is_top = True
        for k in range(offsets.size):
            if values[voxel + offsets[k]] > value:
                is_top = False
                break
        if is_top:
            tops += 1
            if tops > 1:
                return False
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def _flood_basins(
    values: NDArray[np.float32],
    voxels: NDArray[np.uint32],
    steps: tuple[tuple[int, int, int], ...],
    offsets: NDArray[np.uint64],
    deep: int,
    high: int,
    wide: int,
    h: np.float32,
) -> tuple[int, NDArray[np.uint32]]:
    """Seeds and watershed of one component in a padded box: the number of basins and their labels in the box."""
    n = voxels.size
    order, rank = sort_descending(values, voxels)
    place = np.full(values.size, -1, np.int32)
    is_peak = find_domes(values, order, place, offsets, h)
    basins = 0
    work = np.zeros(values.size, np.uint32)
    seeds = np.empty(n, np.uint32)
    seed_levels = np.empty(n, np.uint32)
    starts = np.empty(np.int64(rank[n - 1]) + 1, np.uint32)
    for i in range(n):
        voxel = np.uint64(order[i])
        if i == 0 or rank[i] != rank[i - 1]:
            starts[rank[i]] = i
        work[voxel] = FREE | rank[i]
        if is_peak[i]:
            seeds[basins] = order[i]
            seed_levels[basins] = rank[i]
            basins += 1
            work[voxel] = np.uint32(basins)
    if basins == 1:
        return 1, work
    queue, tails = np.empty(n, np.uint32), np.empty_like(starts)
    flood(work, seeds[:basins], seed_levels[:basins], starts, tails, queue, steps, deep, high, wide)
    return basins, work


@njit(nogil=True, cache=True, error_model="numpy")
def paint(
    order: NDArray[np.int64],
    first: NDArray[np.int64],
    row: NDArray[np.int32],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    width: int,
    begin: int,
    end: int,
    before: NDArray[np.int64],
    names: NDArray[np.uint32],
    labels: NDArray[np.uint32],
) -> None:
    """Replace label k of component c by names[before[c] + k - 1]; a component of one name is written over."""
    for c in range(begin, end):
        table = names[before[c] : before[c + 1]]
        if table.size == 0:
            continue
        one = table.size == 1
        for k in range(first[c], first[c + 1]):
            base = np.int64(row[order[k]]) * width
            for i in range(base + start[order[k]], base + stop[order[k]]):
                labels[i] = table[0] if one else table[labels[i] - np.uint32(1)]
