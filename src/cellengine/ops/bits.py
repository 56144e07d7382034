"""Rows of voxels as words of 64 bits, one a voxel: where bits are set, for all that look for runs."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.machine import count_ones, trailing_zeros

WORD = 64


@njit(nogil=True, cache=True, error_model="numpy")
def add_places(bits: np.uint64, at: int, places: NDArray[np.int32], count: int) -> int:
    """Write `at` + k for each bit k that is set, in order, behind the first `count` of `places`; their number now.

    `places` needs room for four entries beyond its last. Four are written whatever there is: a processor foretells
    badly how many there are among few, and each wrong guess costs 20 cycles.
    """
    one = np.uint64(1)
    place = np.uint64(count)
    end = place + count_ones(bits)
    for k in range(4):
        places[place + np.uint64(k)] = np.int64(at) + np.int64(trailing_zeros(bits))
        bits &= bits - one
    place += np.uint64(4)
    if place < end:
        while bits != 0:
            places[place] = np.int64(at) + np.int64(trailing_zeros(bits))
            bits &= bits - one
            place += one
    return int(np.int64(end))
