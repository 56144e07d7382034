"""Holes of a mask, filled in its runs: the gaps between runs are runs themselves, and connect like them. O(runs)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.runs import Runs, connect_runs


def fill_small_holes(runs: Runs, max_voxels: int) -> Runs:
    """Fill holes of at most `max_voxels`: background that faces connect to no border of the image."""
    if max_voxels <= 0 or runs.count == 0:
        return runs
    depth, height, width = runs.shape
    row_start, start, stop = _gaps(runs.row_start, runs.start, runs.stop, width)
    row, component, count = connect_runs(row_start, start, stop, depth, height, 1)
    filled = _holes(row, start, stop, component, count, depth, height, width, max_voxels)
    if not filled.any():
        return runs
    return Runs(runs.shape, *_merge_filled(runs.row_start, runs.start, runs.stop, row_start, start, stop, filled))


@njit(nogil=True, cache=True, error_model="numpy")
def _gaps(
    row_start: NDArray[np.int64], start: NDArray[np.int32], stop: NDArray[np.int32], width: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """The complement, as runs."""
    rows = row_start.size - 1
    gap_row = np.zeros(rows + 1, np.int64)
    gap_start = np.empty(start.size + rows, np.int32)
    gap_stop = np.empty(start.size + rows, np.int32)
    n = 0
    for row in range(rows):
        x = 0
        for i in range(row_start[row], row_start[row + 1]):
            if start[i] > x:
                gap_start[n], gap_stop[n] = x, start[i]
                n += 1
            x = stop[i]
        if x < width:
            gap_start[n], gap_stop[n] = x, width
            n += 1
        gap_row[row + 1] = n
    return gap_row, gap_start[:n], gap_stop[:n]


@njit(nogil=True, cache=True, error_model="numpy")
def _holes(
    row: NDArray[np.int32],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    component: NDArray[np.int64],
    count: int,
    depth: int,
    height: int,
    width: int,
    max_voxels: int,
) -> NDArray[np.bool_]:
    """Which gaps belong to a hole that is to be filled."""
    size = np.zeros(count, np.int64)
    for i in range(component.size):
        z, y = row[i] // height, row[i] % height
        border = y == 0 or y == height - 1 or start[i] == 0 or stop[i] == width
        border = border or (depth > 1 and (z == 0 or z == depth - 1))
        # a size no hole can have: whatever meets the border is never small enough
        size[component[i]] += max_voxels + 1 if border else stop[i] - start[i]
    filled = np.empty(component.size, np.bool_)
    for i in range(component.size):
        filled[i] = size[component[i]] <= max_voxels
    return filled


@njit(nogil=True, cache=True, error_model="numpy")
def _merge_filled(
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    gap_row: NDArray[np.int64],
    gap_start: NDArray[np.int32],
    gap_stop: NDArray[np.int32],
    filled: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    rows = row_start.size - 1
    new_row = np.zeros(rows + 1, np.int64)
    new_start = np.empty(start.size + gap_start.size, np.int32)
    new_stop = np.empty(start.size + gap_start.size, np.int32)
    n = 0
    for row in range(rows):
        before = n
        a, b = row_start[row], gap_row[row]
        while a < row_start[row + 1] or b < gap_row[row + 1]:
            if b == gap_row[row + 1] or (a < row_start[row + 1] and start[a] < gap_start[b]):
                x0, x1 = start[a], stop[a]
                a += 1
            else:
                x0, x1 = gap_start[b], gap_stop[b]
                b += 1
                if not filled[b - 1]:
                    continue
            if n > before and new_stop[n - 1] == x0:
                new_stop[n - 1] = x1
            else:
                new_start[n], new_stop[n] = x0, x1
                n += 1
        new_row[row + 1] = n
    return new_row, new_start[:n].copy(), new_stop[:n].copy()
