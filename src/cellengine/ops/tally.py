"""The compiled heart of the measurement: runs of one label along x are added to the label's row of a table.

Where runs end is found many voxels at a time, so that background and the inside of objects cost next to nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.machine import trailing_zeros

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

    values: channel after channel. Returns the first row not added, because of a label that the table has no room for,
    and the largest label of it; `end` when all were.
    """
    height, width = shape[1], shape[2]
    one, none = np.uint64(1), values.dtype.type(0) * np.int64(0)
    channels = np.uint64(values.size // max(labels.size, 1))
    room = counts.size // COUNTS
    marks = np.zeros(-(-(width + 1) // 64) * 64, np.uint8)
    stops = np.empty(width + 1, np.int64)
    for line in range(begin, end):
        base = np.uint64(line * width)
        largest = labels[base]
        # one byte a voxel, 1 where a run ends and the next begins
        for x in range(one, np.uint64(width)):
            marks[x] = labels[base + x] != labels[base + x - one]
            largest = max(largest, labels[base + x])
        if largest >= room:
            return line, int(largest)
        if largest == 0:
            continue
        z, y = line // height + origin[0], line % height + origin[1]
        at_border = y == 0 or y == whole[1] - 1 or (whole[0] > 1 and (z == 0 or z == whole[0] - 1))
        marks[width] = 1
        start = 0
        for run in range(_find_marks(marks.view(np.uint64), stops)):
            stop = stops[run]
            label = np.uint64(labels[base + np.uint64(start)])
            if label != 0:
                from_x, to_x = start + origin[2], stop - 1 + origin[2]
                touches = at_border or from_x == 0 or to_x == whole[2] - 1
                _count_run(counts, label * np.uint64(COUNTS), z, y, from_x, to_x, touches)
                for c in range(channels):
                    first = c * np.uint64(labels.size) + base + np.uint64(start)
                    cell = (label * channels + c) * np.uint64(INTENSITIES)
                    _add_run(values, first, first + np.uint64(stop - start), none, sums, cell)
            start = stop
    return end, 0


@njit(nogil=True, cache=True, error_model="numpy")
def _find_marks(marks: NDArray[np.uint64], places: NDArray[np.int64]) -> int:
    """Where bytes are 1 among others that are 0, given eight to a word; how many there are.

    64 at a time: a processor foretells badly how many there are among few, and each wrong guess costs 20 cycles.
    """
    count = 0
    for w in range(0, marks.size, 8):
        bits = np.uint64(0)
        for k in range(8):
            # the product moves the lowest bit of each byte into the highest byte, side by side
            bits |= (marks[w + k] * np.uint64(0x0102040810204080)) >> np.uint64(56) << np.uint64(8 * k)
        while bits != 0:
            places[count] = 8 * w + np.int64(trailing_zeros(bits))
            count += 1
            bits &= bits - np.uint64(1)
    return count


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
    values: NDArray[Any], first: np.uint64, stop: np.uint64, none: Any, sums: NDArray[np.float64], cell: np.uint64
) -> None:
    """`none` is 0 as int64 for integers, whose sums take a quarter of the time of those of floats, else as float64."""
    total, square = none, none
    low = high = values[first]
    for i in range(first, stop):
        value = values[i] + none
        low, high = min(low, values[i]), max(high, values[i])
        total += value
        square += value * value
    sums[cell] += total
    sums[cell + np.uint64(1)] += square
    sums[cell + np.uint64(2)] = min(sums[cell + np.uint64(2)], np.float64(low))
    sums[cell + np.uint64(3)] = max(sums[cell + np.uint64(3)], np.float64(high))
