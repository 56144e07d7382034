"""The compiled heart of the measurement: runs of one label along x are added to the label's row of a table.

A run of a few voxels is the usual thing, and a loop over it costs more for the guess where it ends than for the voxels.
So 64 voxels at a time are compared to find the runs, and 16 at a time are added, whether all belong to the run or not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.bits import WORD, add_places
from cellengine.ops.machine import LANES, above_64, stretch_statistics, unequal_64

AREA, SUMS, LOWEST, HIGHEST, BORDER, COUNTS = 0, 1, 4, 7, 10, 11
"""columns of the counts: area, sums of z y x, lowest z y x, highest z y x, contact with the border; their number"""
INTENSITIES = 4
"""columns of a channel: sum, sum of squares, lowest, highest"""


def empty_table(rows: int, channels: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Counts and intensities of labels 0 ... rows - 1 that were not seen yet."""
    counts = np.zeros((rows, COUNTS), np.int64)
    counts[:, LOWEST:HIGHEST] = np.iinfo(np.int64).max
    counts[:, HIGHEST:BORDER] = -1
    sums = np.zeros((rows, channels, INTENSITIES), np.float64)
    sums[:, :, 2], sums[:, :, 3] = np.inf, -np.inf
    return counts, sums.reshape(rows, INTENSITIES * channels)


@njit(nogil=True, cache=True, error_model="numpy")
def count_rows(
    labels: NDArray[np.uint32],
    values: NDArray[Any],
    begin: int,
    end: int,
    shape: tuple[int, int, int],
    origin: tuple[int, int, int],
    whole: tuple[int, int, int],
    counts: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> tuple[int, int]:
    """Add the rows begin ... end of a block of `shape` at `origin` of the `whole` image; all arrays are flat.

    values: channel after channel, at least LANES of them. Returns the first row not added, because of a label that the
    table has no room for, and the largest label of it; `end` when all were.
    """
    height, width = shape[1], shape[2]
    room = counts.size // COUNTS
    channels = np.uint64(sums.size // (INTENSITIES * max(room, 1)))
    starts, stops = np.empty(width + WORD, np.int32), np.empty(width + WORD, np.int32)
    spare = np.zeros(WORD + 1, np.uint32)
    for line in range(begin, end):
        base = np.uint64(line * width)
        runs = _find_runs(labels, base, width, starts, stops, spare)
        largest = np.uint32(0)
        for run in range(runs):
            largest = max(largest, labels[base + np.uint64(starts[run])])
        if largest >= room:
            return line, int(largest)
        z, y = line // height + origin[0], line % height + origin[1]
        at_border = y == 0 or y == whole[1] - 1 or (whole[0] > 1 and (z == 0 or z == whole[0] - 1))
        for run in range(runs):
            start, stop = np.int64(starts[run]), np.int64(stops[run])
            label = np.uint64(labels[base + np.uint64(start)])
            from_x, to_x = start + origin[2], stop - 1 + origin[2]
            touches = at_border or from_x == 0 or to_x == whole[2] - 1
            _count_run(counts, label * np.uint64(COUNTS), z, y, from_x, to_x, touches)
            for c in range(channels):
                first = c * np.uint64(labels.size) + base + np.uint64(start)
                cell = (label * channels + c) * np.uint64(INTENSITIES)
                _add_run(values, first, first + np.uint64(stop - start), sums, cell)
    return end, 0


@njit(nogil=True, cache=True, error_model="numpy")
def _find_runs(
    labels: NDArray[np.uint32],
    base: np.uint64,
    width: int,
    starts: NDArray[np.int32],
    stops: NDArray[np.int32],
    spare: NDArray[np.uint32],
) -> int:
    """Where runs of one label that is not 0 start and stop in the row from `base` on; how many there are.

    starts, stops: with room for WORD entries more than there are; spare: of WORD + 1 entries.
    """
    one, word, none = np.uint64(1), np.uint64(WORD), np.uint32(0)
    found = ended = 0
    carried = np.uint64(0)
    for x in range(np.uint64(0), np.uint64(width), word):
        i = base + x
        if i > 0 and i + word <= np.uint64(labels.size):
            full, change = above_64(labels, i, none), unequal_64(labels, i, i - one)
        else:
            spare[0] = labels[i - one] if i > 0 else none
            for k in range(WORD):
                spare[k + 1] = labels[i + np.uint64(k)] if i + np.uint64(k) < np.uint64(labels.size) else none
            full, change = above_64(spare, one, none), unequal_64(spare, one, np.uint64(0))
        if x == 0:
            change |= one
        if x + word > np.uint64(width):
            inside = (one << (np.uint64(width) - x)) - one
            full &= inside
            change |= ~inside
        before = full << one | carried
        carried = full >> np.uint64(63)
        found = add_places(full & change, x, starts, found)
        ended = add_places(before & change, x, stops, ended)
    if carried:
        stops[ended] = width
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def _count_run(
    counts: NDArray[np.int64], cell: np.uint64, z: int, y: int, from_x: int, to_x: int, touches: bool
) -> None:
    n = to_x - from_x + 1
    counts[cell] += n
    counts[cell + np.uint64(1)] += z * n
    counts[cell + np.uint64(2)] += y * n
    counts[cell + np.uint64(3)] += (from_x + to_x) * n // 2
    counts[cell + np.uint64(4)] = min(counts[cell + np.uint64(4)], z)
    counts[cell + np.uint64(5)] = min(counts[cell + np.uint64(5)], y)
    counts[cell + np.uint64(6)] = min(counts[cell + np.uint64(6)], from_x)
    counts[cell + np.uint64(7)] = max(counts[cell + np.uint64(7)], z)
    counts[cell + np.uint64(8)] = max(counts[cell + np.uint64(8)], y)
    counts[cell + np.uint64(9)] = max(counts[cell + np.uint64(9)], to_x)
    if touches:
        counts[cell + np.uint64(10)] = 1


@njit(nogil=True, cache=True, error_model="numpy")
def _add_run(
    values: NDArray[Any], first: np.uint64, stop: np.uint64, sums: NDArray[np.float64], cell: np.uint64
) -> None:
    last = np.uint64(values.size - LANES)
    while first < stop:
        at = min(first, last)
        total, square, low, high = stretch_statistics(values, at, np.int64(first - at), np.int64(stop - at))
        sums[cell] += total
        sums[cell + np.uint64(1)] += square
        sums[cell + np.uint64(2)] = min(sums[cell + np.uint64(2)], low)
        sums[cell + np.uint64(3)] = max(sums[cell + np.uint64(3)], high)
        first = at + np.uint64(LANES)
