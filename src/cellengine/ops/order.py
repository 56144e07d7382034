"""Sorting float32 and 32-bit keys by radix: stable, linear, no comparison."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True, cache=True, error_model="numpy")
def ordered_key(bits: np.uint32) -> np.uint32:
    """An unsigned integer in the order of the float32 with these bits; one for both zeros, the largest for NaN."""
    if bits == np.uint32(0x80000000):
        return np.uint32(0x80000000)
    if bits & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
        return np.uint32(0xFFFFFFFF)
    return np.uint32(bits ^ (np.uint32(0xFFFFFFFF) if bits >> np.uint32(31) else np.uint32(0x80000000)))


@njit(nogil=True, cache=True, error_model="numpy")
def ordered_keys(bits: NDArray[np.uint32], keys: NDArray[np.uint32], flip: np.uint32) -> None:
    """Write, for float32 given by its bits, unsigned keys of the same order; `flip` 0xFFFFFFFF reverses it.

    NaN comes after everything (before, when reversed). `bits` and `keys` may be one array.
    """
    for i in range(bits.size):
        keys[i] = ordered_key(bits[i]) ^ flip


@njit(nogil=True, cache=True, error_model="numpy")
def radix_sort(
    keys: NDArray[np.uint32], values: NDArray[np.uint32], spare_keys: NDArray[np.uint32], spare: NDArray[np.uint32]
) -> None:
    """Sort `keys` ascending, in place, and `values` with them; equal keys keep their order.

    Three passes of 11 bits; passes in which all keys agree are left out. The spare arrays are scratch of equal length.
    """
    n = keys.size
    counts = np.zeros((3, 2048), np.int64)
    for i in range(n):
        counts[0, keys[i] & np.uint32(2047)] += 1
        counts[1, (keys[i] >> np.uint32(11)) & np.uint32(2047)] += 1
        counts[2, keys[i] >> np.uint32(22)] += 1
    swapped = False
    for digit in range(3):
        shift = np.uint32(11 * digit)
        place = counts[digit]
        source, target = (spare_keys, keys) if swapped else (keys, spare_keys)
        source_values, target_values = (spare, values) if swapped else (values, spare)
        if n == 0 or place[(source[0] >> shift) & np.uint32(2047)] == n:
            continue
        total = 0
        for bucket in range(2048):
            count = place[bucket]
            place[bucket] = total
            total += count
        for i in range(n):
            key = np.int64((source[i] >> shift) & np.uint32(2047))
            at = place[key]
            place[key] = at + 1
            target[at] = source[i]
            target_values[at] = source_values[i]
        swapped = not swapped
    if swapped:
        for i in range(n):
            keys[i] = spare_keys[i]
            values[i] = spare[i]
