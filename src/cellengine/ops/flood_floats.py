"""The watershed of float32 relief: coarse bins in the order of values, each sorted when the flood comes to it.

Where `flood` has one queue a level, this has one a bin: what waits in the bin in work is a sorted run, a heap of what
was reached since, and a ring of what lies at or below the flood. O(voxels) on smooth relief, O(voxels * log) at worst.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.flood import FREE, free_neighbours, offsets_of, prefetch_around
from cellengine.ops.lists import lengthened
from cellengine.ops.machine import trailing_zeros
from cellengine.ops.order import ordered_key, radix_sort


@njit(nogil=True, cache=True, error_model="numpy")
def _push(heap: NDArray[np.uint64], voxels: NDArray[Any], count: int, key: np.uint64, voxel: np.uint64) -> None:
    """Put (key, voxel) into a binary heap of `count` entries that has room for one more."""
    i = count
    while i > 0 and heap[(i - 1) // 2] > key:
        heap[i], voxels[i] = heap[(i - 1) // 2], voxels[(i - 1) // 2]
        i = (i - 1) // 2
    heap[i], voxels[i] = key, voxel


@njit(nogil=True, cache=True, error_model="numpy")
def _drop_first(heap: NDArray[np.uint64], voxels: NDArray[Any], count: int) -> None:
    """Take the first of `count` entries out of a binary heap."""
    last = count - 1
    key, voxel = heap[last], voxels[last]
    i = 0
    while 2 * i + 1 < last:
        child = 2 * i + 1
        if child + 1 < last and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[i], voxels[i] = heap[child], voxels[child]
        i = child
    heap[i], voxels[i] = key, voxel


@njit(nogil=True, cache=True, error_model="numpy")
def flood_floats(
    relief: NDArray[np.uint32],
    work: NDArray[np.uint32],
    seeds: NDArray[np.uint32],
    seed_bins: NDArray[np.uint32],
    starts: NDArray[np.uint32],
    tails: NDArray[np.uint32],
    queue: NDArray[np.uint32],
    steps: tuple[tuple[int, int, int], ...],
    depth: int,
    height: int,
    width: int,
) -> None:
    """As `flood`, for float32 relief given by its bits: `work` and `seed_bins` hold coarse bins in the order of values.

    A bin is sorted when the flood comes to it, so that only what waits there is ever sorted. What is reached within the
    bin in work goes into a small heap when it is higher than the flood, and into a ring, first in first out, when not.
    At equal height the sorted entries are the oldest, then those of the heap, then those of the ring.
    """
    one = np.uint64(1)
    row, plane = np.uint64(width), np.uint64(height * width)
    flat = depth == 1
    offsets = offsets_of(steps, height, width)
    for k in range(starts.size):
        tails[k] = starts[k]
    for i in range(seeds.size):
        queue[tails[seed_bins[i]]] = seeds[i]
        tails[seed_bins[i]] += np.uint32(1)
    room = np.uint64(queue.size)
    heap, heap_voxels, heap_count = np.empty(1024, np.uint64), np.empty(1024, np.uint32), 0
    keys, spare_keys, spare = np.empty(1024, np.uint32), np.empty(1024, np.uint32), np.empty(1024, np.uint32)
    age = np.uint64(0)
    for index in range(starts.size):
        first, count = np.int64(starts[index]), np.int64(tails[index]) - np.int64(starts[index])
        if count == 0:
            continue
        if count > keys.size:
            keys = np.empty(2 * count, np.uint32)
            spare_keys, spare = np.empty(2 * count, np.uint32), np.empty(2 * count, np.uint32)
        waiting = queue[first : first + count]
        for i in range(count):
            keys[i] = ordered_key(relief[np.uint64(waiting[i])])
        radix_sort(keys[:count], waiting, spare_keys[:count], spare[:count])
        bin_now = np.uint32(index)
        # the ring lies behind the run, and from the end of the bin goes on at the front of the queue, as in `flood`
        end = np.uint64(starts[index + 1]) if index + 1 < starts.size else room
        head = np.uint64(0) if np.uint64(first + count) == end else np.uint64(first + count)
        tail, in_ring = head, np.uint64(0)
        level = np.uint32(0)
        at = 0
        while True:
            in_run, in_heap = at < count, heap_count > 0
            heap_level = np.uint32(heap[0] >> np.uint64(32)) if in_heap else np.uint32(0xFFFFFFFF)
            if in_run and keys[at] <= heap_level and (keys[at] == level or in_ring == 0):
                voxel, level = np.uint64(waiting[at]), keys[at]
                at += 1
                if at + 8 < count:
                    prefetch_around(work, np.uint64(waiting[at + 8]), row, plane, flat)
            elif in_heap and (heap_level == level or in_ring == 0):
                voxel, level = np.uint64(heap_voxels[0]), heap_level
                _drop_first(heap, heap_voxels, heap_count)
                heap_count -= 1
            elif in_ring > 0:
                voxel = np.uint64(queue[head])
                head = np.uint64(0) if head + one == end else head + one
                in_ring -= one
            else:
                break
            if heap_count + offsets.size > heap.size:
                heap_voxels = lengthened(heap_voxels, heap_count, 2 * heap.size)
                heap = lengthened(heap, heap_count, 2 * heap.size)
            label = work[voxel]
            bits = free_neighbours(work, voxel, steps, offsets, depth, height, width)
            while bits != 0:
                other = voxel + offsets[trailing_zeros(bits)]
                bits &= bits - one
                state = work[other] ^ FREE
                work[other] = label
                if state > bin_now:
                    place = np.uint64(tails[state])
                    queue[place] = other
                    tails[state] = place + one
                    continue
                key = ordered_key(relief[other])
                if key > level:
                    _push(heap, heap_voxels, heap_count, (np.uint64(key) << np.uint64(32)) | age, other)
                    heap_count += 1
                    age += one
                else:
                    queue[tail] = other
                    tail = np.uint64(0) if tail + one == end else tail + one
                    in_ring += one
