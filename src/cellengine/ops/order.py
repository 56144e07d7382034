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

    One pass a digit of the distance to the lowest key: of 11 bits, or of 8 where 2048 counts would cost more than the
    keys. The spare arrays are scratch of equal length.
    """
    n = keys.size
    if n == 0:
        return
    low = high = keys[0]
    for i in range(n):
        low, high = min(low, keys[i]), max(high, keys[i])
    width = 11 if n > 8192 else 8
    last = np.uint32((1 << width) - 1)
    place = np.empty(1 << width, np.int64)
    swapped = False
    for shift in range(0, 32, width):
        step = np.uint32(shift)
        if (high - low) >> step == 0:
            break
        source, target = (spare_keys, keys) if swapped else (keys, spare_keys)
        source_values, target_values = (spare, values) if swapped else (values, spare)
        for digit in range(place.size):
            place[digit] = 0
        for i in range(n):
            place[((source[i] - low) >> step) & last] += 1
        total = 0
        for digit in range(place.size):
            count = place[digit]
            place[digit] = total
            total += count
        for i in range(n):
            bucket = ((source[i] - low) >> step) & last
            at = place[bucket]
            place[bucket] = at + 1
            target[at] = source[i]
            target_values[at] = source_values[i]
        swapped = not swapped
    if swapped:
        for i in range(n):
            keys[i] = spare_keys[i]
            values[i] = spare[i]
