"""What a flood starts from: levels in place of the relief, seeds in raster order, and the buckets of the queue.

One walk over the components finds their range and seeds, a second writes FREE | level or the label of the seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.flood import FREE, LARGEST_LABEL
from cellengine.ops.order import ordered_keys, radix_sort

_BIN = 1024  # voxels a bin of float relief, on average


@njit(nogil=True, cache=True, error_model="numpy")
def prepare_levels(
    relief: NDArray[Any],
    labels: NDArray[np.uint32],
    order: NDArray[np.int64],
    first: NDArray[np.int64],
    row: NDArray[np.int32],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    begin: int,
    end: int,
    width: int,
    work: NDArray[np.uint32],
    like: NDArray[Any],
) -> tuple[bool, NDArray[Any], NDArray[np.uint32], NDArray[Any], int]:
    """Write the components begin ... end into `work`; their seeds, the buckets of the queue and its length."""
    low, high = relief.dtype.type(0xFFFF), relief.dtype.type(0)
    seed_count, largest = 0, np.uint32(0)
    seeded = np.zeros(end - begin, np.bool_)
    for c in range(begin, end):
        before = seed_count
        for k in range(first[c], first[c + 1]):
            base = np.int64(row[order[k]]) * width
            for i in range(np.uint64(base + start[order[k]]), np.uint64(base + stop[order[k]])):
                low, high = min(low, relief[i]), max(high, relief[i])
                largest = max(largest, labels[i])
                seed_count += labels[i] != 0
        seeded[c - begin] = seed_count > before
    if largest >= np.uint32(LARGEST_LABEL):
        return False, like[:0].copy(), work[:0].copy(), like[:0].copy(), 0
    lowest, highest, size = np.int64(low), np.int64(high), np.int64(0)
    if seed_count == 0:
        return True, like[:0].copy(), work[:0].copy(), like[:0].copy(), 0
    starts = np.zeros(highest - lowest + 1, like.dtype)
    seeds = np.empty(seed_count, like.dtype)
    levels = np.empty(seed_count, np.uint32)
    seed_count = 0
    for c in range(begin, end):
        if not seeded[c - begin]:
            continue
        for k in range(first[c], first[c + 1]):
            base = np.int64(row[order[k]]) * width
            for i in range(base + start[order[k]], base + stop[order[k]]):
                level = np.uint32(np.int64(relief[i]) - lowest)
                starts[level] += 1
                if labels[i] != 0:
                    seeds[seed_count] = i
                    levels[seed_count] = level
                    work[i] = labels[i]
                    seed_count += 1
                else:
                    work[i] = FREE | level
    for bucket in range(starts.size):
        held = np.int64(starts[bucket])
        starts[bucket] = size
        size += held
    return True, seeds, levels, starts, int(size)


@njit(nogil=True, cache=True, error_model="numpy")
def prepare_bins(
    relief: NDArray[np.uint32],
    labels: NDArray[np.uint32],
    order: NDArray[np.int64],
    first: NDArray[np.int64],
    row: NDArray[np.int32],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    begin: int,
    end: int,
    width: int,
    work: NDArray[np.uint32],
) -> tuple[bool, NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], int]:
    """As `prepare_levels` for float32 bits: coarse bins of equal width between the lowest and highest finite value."""
    none = work[:0].copy()
    values = relief.view(np.float32)
    seed_count, total = 0, 0
    low, high = np.inf, -np.inf
    seeded = np.zeros(end - begin, np.bool_)
    for c in range(begin, end):
        for k in range(first[c], first[c + 1]):
            base = np.int64(row[order[k]]) * width
            for i in range(base + start[order[k]], base + stop[order[k]]):
                if np.isfinite(values[i]):
                    low = min(low, np.float64(values[i]))
                    high = max(high, np.float64(values[i]))
                if labels[i] != 0:
                    seeded[c - begin] = True
                    seed_count += 1
                    if labels[i] >= np.uint32(LARGEST_LABEL):
                        return False, none, none, none, 0
            total += stop[order[k]] - start[order[k]]
    if seed_count == 0:
        return True, none, none, none, 0
    bins = max(1, min(total // _BIN, 1 << 16))
    scale = bins / (high - low) if high > low else 0.0
    starts = np.zeros(bins, np.uint32)
    seeds, seed_bins = np.empty(seed_count, np.uint32), np.empty(seed_count, np.uint32)
    seed_count = 0
    for c in range(begin, end):
        if not seeded[c - begin]:
            continue
        for k in range(first[c], first[c + 1]):
            base = np.int64(row[order[k]]) * width
            for i in range(base + start[order[k]], base + stop[order[k]]):
                value = np.float64(values[i])
                # rounding never turns the order of two values around, so neither do the bins
                if value <= low:
                    place = np.uint32(0)
                elif value < high:
                    place = np.uint32((value - low) * scale)
                else:
                    place = np.uint32(bins - 1)  # NaN too
                place = np.uint32(bins - 1) if place >= bins else place
                starts[place] += np.uint32(1)
                if labels[i] != 0:
                    seeds[seed_count] = i
                    seed_bins[seed_count] = place
                    work[i] = labels[i]
                    seed_count += 1
                else:
                    work[i] = FREE | place
    size = np.int64(0)
    for b in range(bins):
        held = np.int64(starts[b])
        starts[b] = size
        size += held
    return True, seeds, seed_bins, starts, int(size)


@njit(nogil=True, cache=True, error_model="numpy")
def prepare_ranks(
    relief: NDArray[np.uint32],
    labels: NDArray[np.uint32],
    order: NDArray[np.int64],
    first: NDArray[np.int64],
    row: NDArray[np.int32],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    begin: int,
    end: int,
    width: int,
    work: NDArray[np.uint32],
) -> tuple[bool, NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], int]:
    """As `prepare_levels` for float32 bits: the levels are the ranks of the values among the voxels of the group."""
    total, seed_count = 0, 0
    seeded = np.zeros(end - begin, np.bool_)
    for c in range(begin, end):
        count = 0
        for k in range(first[c], first[c + 1]):
            base = np.int64(row[order[k]]) * width
            count += stop[order[k]] - start[order[k]]
            for i in range(base + start[order[k]], base + stop[order[k]]):
                if labels[i] != 0:
                    seeded[c - begin] = True
                    seed_count += 1
                    if labels[i] >= np.uint32(LARGEST_LABEL):
                        return False, work[:0].copy(), work[:0].copy(), work[:0].copy(), 0
        total += count if seeded[c - begin] else 0
    if seed_count == 0:
        return True, work[:0].copy(), work[:0].copy(), work[:0].copy(), 0
    keys = np.empty(total, np.uint32)
    voxels = np.empty(total, np.uint32)
    n = 0
    for c in range(begin, end):
        if not seeded[c - begin]:
            continue
        for k in range(first[c], first[c + 1]):
            base = np.int64(row[order[k]]) * width
            for i in range(base + start[order[k]], base + stop[order[k]]):
                keys[n] = relief[i]
                voxels[n] = i
                n += 1
    ordered_keys(keys, keys, np.uint32(0))
    spare = np.empty(total, np.uint32)
    starts = np.empty(total, np.uint32)
    radix_sort(keys, voxels, starts, spare)
    seeds, levels = np.empty(seed_count, np.uint32), np.empty(seed_count, np.uint32)
    seed_count, level = 0, -1
    for i in range(total):
        if i == 0 or keys[i] != keys[i - 1]:
            level += 1
            starts[level] = i
        voxel = voxels[i]
        if labels[voxel] != 0:
            seeds[seed_count] = voxel
            levels[seed_count] = level
            seed_count += 1
            work[voxel] = labels[voxel]
        else:
            work[voxel] = FREE | np.uint32(level)
    return True, seeds, levels, starts[: level + 1].copy(), total
