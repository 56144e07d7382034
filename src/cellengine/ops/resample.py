"""Arrays on a coarser or finer grid over the same extent, box by box with the bits of the whole. No files.

Reduced axes take the mean of what a new voxel covers, enlarged ones are interpolated linearly between voxel centres.
The weights of a voxel follow from its place in the whole array alone, in exact integer arithmetic, so that a box of
the result does not depend on how the result is cut into boxes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.geometry import Region


def needed_voxels(start: int, stop: int, size: int, new_size: int) -> tuple[int, int]:
    """Which voxels of an axis of `size` the voxels start ... stop of the same axis at `new_size` are made of."""
    if new_size <= size:
        return start * size // new_size, -(-stop * size // new_size)
    return _below(start, size, new_size), min(_below(stop - 1, size, new_size) + 2, size)


def needed_region(region: Region, shape: tuple[int, ...], new_shape: tuple[int, ...]) -> Region:
    """The box of an array of `shape` that `region` of the same array at `new_shape` is made of."""
    bounds = [needed_voxels(*axis) for axis in zip(region.start, region.stop, shape, new_shape, strict=True)]
    return Region(tuple(a for a, _ in bounds), tuple(b for _, b in bounds))


def resample_box(
    values: NDArray[Any], region: Region, shape: tuple[int, ...], new_shape: tuple[int, ...]
) -> NDArray[Any]:
    """The box `region` of an array of `shape` brought to `new_shape`, in the type of `values`.

    values: the box `needed_region(region, shape, new_shape)` of the array; axes before those of `shape` are kept.
    Whole numbers are rounded. Computed in float32 for up to 16 bits and for float32, else in float64. O(voxels read);
    memory: the values as floats.
    """
    kind = np.float32 if values.dtype.itemsize <= 2 or values.dtype == np.float32 else np.float64
    lead = values.ndim - len(shape)
    needed = needed_region(region, shape, new_shape)
    result: NDArray[Any] = np.ascontiguousarray(values, kind)
    # the axis that shrinks most comes first: the others then have less to do
    for axis in sorted(range(len(shape)), key=lambda i: new_shape[i] / shape[i]):
        if shape[axis] == new_shape[axis]:
            continue
        first, count, weight = _weights(region.start[axis], region.stop[axis], shape[axis], new_shape[axis])
        sides = result.shape
        place = lead + axis
        flat = result.reshape(int(np.prod(sides[:place])), sides[place], -1)
        out = np.empty((flat.shape[0], len(first), flat.shape[2]), kind)
        _combine(flat, first - needed.start[axis], count, weight.astype(kind), out)
        result = out.reshape(*sides[:place], len(first), *sides[place + 1 :])
    if values.dtype.kind in "ui":
        limits = np.iinfo(values.dtype)
        result = np.clip(np.rint(result), limits.min, limits.max)
    return result.astype(values.dtype, copy=False)


def _below(index: int, size: int, new_size: int) -> int:
    """The last voxel whose centre is not behind that of new voxel `index`; the first one at the edge."""
    return max(((2 * index + 1) * size - new_size) // (2 * new_size), 0)


def _weights(
    start: int, stop: int, size: int, new_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """For each new voxel the first voxel it is made of, how many, and their weights (n, most)."""
    new = np.arange(start, stop, dtype=np.int64)
    if new_size <= size:
        first, last = new * size // new_size, -(-(new + 1) * size // new_size)
        voxel = first[:, None] + np.arange(int((last - first).max()))
        # overlaps in units of 1 / new_size voxel: whole numbers, so that the weights are rounded once
        covered = np.minimum((voxel + 1) * new_size, ((new + 1) * size)[:, None])
        covered -= np.maximum(voxel * new_size, (new * size)[:, None])
        return first, last - first, np.maximum(covered, 0) / size
    place = (2 * new + 1) * size - new_size
    first = np.maximum(place // (2 * new_size), 0)
    share = np.clip((place - first * 2 * new_size) / (2 * new_size), 0, 1)
    inside = first + 1 < size
    share = np.where(inside, share, 0)
    return first, np.where(inside, 2, 1), np.stack([1 - share, share], axis=1)


@njit(nogil=True, cache=True)
def _combine(
    values: NDArray[Any], first: NDArray[np.int64], count: NDArray[np.int64], weight: NDArray[Any], out: NDArray[Any]
) -> None:
    """Weighted sums along the middle axis, each in the same order whatever the box."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            start = first[j]
            if out.shape[2] == 1:
                total = weight[j, 0] * values[i, start, 0]
                for k in range(1, count[j]):
                    total += weight[j, k] * values[i, start + k, 0]
                out[i, j, 0] = total
                continue
            for x in range(out.shape[2]):
                out[i, j, x] = weight[j, 0] * values[i, start, x]
            for k in range(1, count[j]):
                for x in range(out.shape[2]):
                    out[i, j, x] += weight[j, k] * values[i, start + k, x]
