"""The compiled heart of the watershed: a hierarchical queue, first in first out among equals. No checks, no files.

One array of 32 bits a voxel, `work`, holds everything that a visit needs: FREE | level where a voxel waits to be
flooded, its label once it is flooded or seeded, and 0 where the flood may not go. It starts as the relief and ends as
the labels, so that a visit costs one cache line where separate arrays of relief, mask and labels cost three.

The queue is one array of 4 bytes a voxel (8 beyond 2^32 voxels), cut into one bucket a level by the histogram of the
levels. Voxels below the flood's level join the bucket in work at its end, and from there go on at the front of the
array: every voxel is pushed once, so what the buckets before this one do not hold any more leaves them room enough.
O(voxels + levels).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.machine import prefetch, trailing_zeros

FREE = np.uint32(0x80000000)
"""flag of a voxel that waits; the lower 31 bits are its level"""
LARGEST_LABEL = 0x7FFFFFFF

_AHEAD = np.uint64(32)  # how many pops ahead memory is asked for; 24 to 32 measured alike, 14 is too late


@njit(nogil=True, cache=True, error_model="numpy")
def prefetch_around(work: NDArray[np.uint32], voxel: np.uint64, row: np.uint64, plane: np.uint64, flat: bool) -> None:
    """Ask for what a visit of `voxel` looks at. Queue order jumps over the image: this halves the time of a flood.

    The neighbours along x lie in another cache line than `voxel` one time in eight, which is worth asking for, too.
    """
    one, size = np.uint64(1), np.uint64(work.size)
    prefetch(work, voxel - one if voxel > 0 else voxel)
    prefetch(work, voxel + one if voxel + one < size else voxel)
    if voxel >= row:
        prefetch(work, voxel - row)
    if voxel + row < size:
        prefetch(work, voxel + row)
    if not flat:
        if voxel >= plane:
            prefetch(work, voxel - plane)
        if voxel + plane < size:
            prefetch(work, voxel + plane)


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def free_neighbours(
    work: NDArray[np.uint32],
    voxel: np.uint64,
    steps: tuple[tuple[int, int, int], ...],
    offsets: NDArray[np.uint64],
    depth: int,
    height: int,
    width: int,
) -> np.uint64:
    """Bits: which neighbours of `voxel` wait to be flooded. All are read before anything depends on what they are."""
    row = np.uint64(width)
    line = voxel // row
    x = voxel - line * row
    z = np.uint64(0) if depth == 1 else line // np.uint64(height)
    y = line - z * np.uint64(height)
    last_x, last_y, last_z = np.uint64(width - 1), np.uint64(height - 1), np.uint64(max(depth - 1, 0))
    bits = np.uint64(0)
    if x > 0 and x < last_x and y > 0 and y < last_y and (depth == 1 or (z > 0 and z < last_z)):
        for k in range(len(steps)):
            bits |= np.uint64(work[voxel + offsets[k]] >> np.uint32(31)) << np.uint64(k)
        return bits
    for k, (dz, dy, dx) in enumerate(steps):
        nz, ny, nx = np.int64(z) + dz, np.int64(y) + dy, np.int64(x) + dx
        if 0 <= nx < width and 0 <= ny < height and 0 <= nz < depth:
            bits |= np.uint64(work[voxel + offsets[k]] >> np.uint32(31)) << np.uint64(k)
    return bits


@njit(nogil=True, cache=True, error_model="numpy")
def offsets_of(steps: tuple[tuple[int, int, int], ...], height: int, width: int) -> NDArray[np.uint64]:
    """The steps as offsets into a flat C array; unsigned, adding wraps around to the right place."""
    offsets = np.empty(len(steps), np.uint64)
    for k, (dz, dy, dx) in enumerate(steps):
        offsets[k] = np.uint64((dz * height + dy) * width + dx)
    return offsets


@njit(nogil=True, cache=True, error_model="numpy")
def flood(
    work: NDArray[np.uint32],
    seeds: NDArray[Any],
    seed_levels: NDArray[np.uint32],
    starts: NDArray[Any],
    tails: NDArray[Any],
    queue: NDArray[Any],
    steps: tuple[tuple[int, int, int], ...],
    depth: int,
    height: int,
    width: int,
) -> None:
    """Flood `work` (flat, C order) from `seeds`, lowest level first.

    seeds, seed_levels: positions and levels of the seeds, in raster order within each level; labels stand in `work`.
    starts: first place of each level in `queue`, so that each level has room for just its voxels and seeds.
    tails, queue: scratch, as long as `starts` and as the number of voxels and seeds; of one dtype with `seeds`.
    steps: to the neighbours, z y x; a tuple, so that the compiler knows how many there are.
    """
    one = np.uint64(1)
    size, room = np.uint64(work.size), np.uint64(queue.size)
    row = np.uint64(width)
    plane = np.uint64(height * width)
    flat = depth == 1
    offsets = offsets_of(steps, height, width)
    for k in range(starts.size):
        tails[k] = starts[k]
    for i in range(seeds.size):
        queue[np.uint64(tails[seed_levels[i]])] = seeds[i]
        tails[seed_levels[i]] += one
    for index in range(starts.size):
        level = np.uint32(index)
        head, tail = np.uint64(starts[index]), np.uint64(tails[index])
        end = np.uint64(starts[index + 1]) if index + 1 < starts.size else room
        waiting = tail - head
        tail = np.uint64(0) if tail == end else tail
        while waiting > 0:
            voxel = np.uint64(queue[head])
            # a place that no voxel took yet holds anything: the bound makes it harmless
            if head + _AHEAD < room and queue[head + _AHEAD] < size:
                prefetch_around(work, np.uint64(queue[head + _AHEAD]), row, plane, flat)
            head = np.uint64(0) if head + one == end else head + one
            waiting -= one
            label = work[voxel]
            bits = free_neighbours(work, voxel, steps, offsets, depth, height, width)
            while bits != 0:
                other = voxel + offsets[trailing_zeros(bits)]
                bits &= bits - one
                state = work[other] ^ FREE
                work[other] = label
                if state > level:
                    place = np.uint64(tails[state])
                    queue[place] = other
                    tails[state] = place + one
                else:
                    queue[tail] = other
                    tail = np.uint64(0) if tail + one == end else tail + one
                    waiting += one


_WAITING, _QUEUED, _DONE, _LINE = 0, 1, 2, 3


@njit(nogil=True, cache=True, error_model="numpy")
def flood_with_lines(
    work: NDArray[np.uint32],
    seeds: NDArray[Any],
    seed_levels: NDArray[np.uint32],
    starts: NDArray[Any],
    tails: NDArray[Any],
    queue: NDArray[Any],
    steps: NDArray[np.int64],
    depth: int,
    height: int,
    width: int,
) -> None:
    """As `flood`, but a voxel that is reached while it touches another label becomes a line of 0, one voxel thick.

    The line still hands on the flood that reached it, as scikit-image does. One byte a voxel more for its state.
    """
    state = np.zeros(work.size, np.uint8)
    for k in range(starts.size):
        tails[k] = starts[k]
    for i in range(seeds.size):
        queue[tails[seed_levels[i]]] = seeds[i]
        tails[seed_levels[i]] += 1
        state[seeds[i]] = _DONE
    for level in range(starts.size):
        head, tail = np.int64(starts[level]), np.int64(tails[level])
        end = np.int64(starts[level + 1]) if level + 1 < starts.size else queue.size
        waiting = tail - head
        tail = np.int64(0) if tail == end else tail
        while waiting > 0:
            voxel = np.int64(queue[head])
            head = np.int64(0) if head + 1 == end else head + 1
            waiting -= 1
            label = work[voxel]
            z, y, x = voxel // (height * width), voxel // width % height, voxel % width
            meets_other = False
            for i in range(len(steps)):
                nz, ny, nx = z + steps[i, 0], y + steps[i, 1], x + steps[i, 2]
                if nx < 0 or nx >= width or ny < 0 or ny >= height or nz < 0 or nz >= depth:
                    continue
                other = (nz * height + ny) * width + nx
                meets_other = meets_other or (state[other] == _DONE and work[other] != label)
                if work[other] >= FREE:
                    target = np.int64(work[other] ^ FREE)
                    work[other] = label
                    if target > level:
                        queue[tails[target]] = other
                        tails[target] += 1
                    else:
                        queue[tail] = other
                        tail = np.int64(0) if tail + 1 == end else tail + 1
                        waiting += 1
                    state[other] = _QUEUED
            # a seed keeps its label, but as part of a line it stops nobody: state tells the two apart
            if state[voxel] == _DONE:
                if meets_other:
                    state[voxel] = _WAITING
            else:
                state[voxel] = _LINE if meets_other else _DONE
    for i in range(work.size):
        if state[i] == _LINE:
            work[i] = 0
