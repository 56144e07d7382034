"""Part of a picture seen through an affine map and smooth shifts, in one resampling; reflected beyond the border."""

from __future__ import annotations

from math import floor
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

_HALVES = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
"""the value of every float16, by its bits: numba has none of its own, and a table of 256 KB stays in the cache"""


def warp(
    source: Array,
    matrix: Array,
    offset: Array,
    out: NDArray[np.float32],
    *,
    shifts: NDArray[np.float32] | None = None,
    nearest: bool = False,
) -> None:
    """Fill `out` (C, *shape) with `source` (C, *spatial) at `matrix @ (voxel + shifts[:, voxel]) + offset`.

    Two or three spatial axes. `source` of float16, float32, bool or whole numbers may be a memory map, of which only
    what is needed is read. `matrix` (D, D) and `offset` (D,) lead from a voxel of `out` to a place in `source`; before,
    `shifts` (D, *shape) are added. Values in between are interpolated linearly, or with `nearest` those of the nearest
    voxel. Beyond the border the picture goes on mirrored, the outermost voxels not repeated. No temporaries.
    """
    voxels, table = _readable(source)
    moved = shifts if shifts is not None else np.empty((len(matrix),) + (0,) * len(matrix), np.float32)
    kernel = _warp_2d if voxels.ndim == 3 else _warp_3d
    kernel(voxels, table, matrix, offset, moved, nearest, out)


def warp_each(
    sources: Array, chosen: NDArray[np.int64], matrices: Array, offsets: Array, out: NDArray[np.float32]
) -> None:
    """`warp` of many small pictures of one shape in one call: `out[i]` is `sources[chosen[i]]` at `matrices[i]`.

    `sources` (N, C, Y, X), `matrices` (n, 2, 2), `offsets` (n, 2), `out` (n, C, *shape).
    """
    voxels, table = _readable(sources)
    _warp_each(voxels, table, chosen, matrices, offsets, np.empty((2, 0, 0), np.float32), out)


def pick(source: Array, matrix: Array, offset: Array, out: NDArray[np.float32]) -> None:
    """As `warp`, for a `matrix` that only mirrors and exchanges axes and an `offset` of whole steps; much faster."""
    voxels, table = _readable(source)
    volume = out.reshape(len(out), *(1,) * (3 - len(matrix)), *out.shape[1:])
    _pick(voxels.reshape(len(voxels), -1), table, voxels.shape[1:], matrix, offset, volume)


def _readable(source: Array) -> tuple[Array, Array | None]:
    """`source` as numba can read it, and a table of the values of its numbers where it needs one."""
    plain = np.ascontiguousarray(source)
    if plain.dtype == np.float16:
        return plain.view(np.uint16), _HALVES
    return (plain.view(np.uint8) if plain.dtype == bool else plain), None


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _mirrored(i: int, size: int) -> int:
    """The voxel that place `i` shows, on an axis of `size` voxels."""
    if i < 0:
        i = -i
    if i >= size:
        i = 2 * (size - 1) - i
    if i < 0:  # farther away than the picture is long
        i = abs(i) % max(2 * (size - 1), 1)
        i = min(i, 2 * (size - 1) - i)
    return i


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _value(number, table):  # type: ignore[no-untyped-def]
    if table is None:
        return np.float32(number)
    return table[number]


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _row(voxels, table, channel, first, second, share):  # type: ignore[no-untyped-def]
    """Between two voxels; indices without a sign spare the test for those that count from the end."""
    low = _value(voxels[np.uint64(channel + first)], table)
    return low + share * (_value(voxels[np.uint64(channel + second)], table) - low)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _inside(start, step, length, size):  # type: ignore[no-untyped-def]
    """Whether a row of places lies within an axis, with the neighbours that interpolation needs."""
    end = start + step * (length - 1)
    return start >= 0 and end >= 0 and start < size - 1 and end < size - 1  # not of numbers that are none


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _split(start, step, stride, places, shares):  # type: ignore[no-untyped-def]
    """Add the voxel before each place of a row, and keep how far the place is from it.

    A loop of its own, without lookups: the compiler takes eight places at once.
    """
    for j in range(len(places)):
        at = start + step * j
        whole = np.int64(at)
        shares[j] = np.float32(at - whole)
        places[j] += whole * stride


@njit(nogil=True, cache=True, error_model="numpy")
def _pick(voxels, table, shape, matrix, offset, out):  # type: ignore[no-untyped-def]
    dims = len(shape)
    longest = max(out.shape[1], out.shape[2], out.shape[3])
    places = np.zeros((3, longest), np.int64)
    step = 1
    for along in range(dims - 1, -1, -1):
        for axis in range(dims):
            if matrix[along, axis] != 0:
                for n in range(longest):
                    at = _mirrored(int(offset[along]) + int(matrix[along, axis]) * n, shape[along])
                    places[3 - dims + axis, n] = at * step
        step *= shape[along]
    for c in range(out.shape[0]):
        for k in range(out.shape[1]):
            for i in range(out.shape[2]):
                row = places[0, k] + places[1, i]
                for j in range(out.shape[3]):
                    out[c, k, i, j] = _value(voxels[c, np.uint64(row + places[2, j])], table)


@njit(nogil=True, cache=True, error_model="numpy")
def _warp_2d(source, table, matrix, offset, shifts, nearest, out):  # type: ignore[no-untyped-def]
    channels, height, width = source.shape
    voxels, plane = source.reshape(-1), height * width
    smooth, length, down, along = not nearest and not shifts.size, out.shape[2], matrix[0, 1], matrix[1, 1]
    places, shares = np.empty(length, np.int64), np.empty((2, length), np.float32)
    for i in range(out.shape[1]):
        y, x = matrix[0, 0] * i + offset[0], matrix[1, 0] * i + offset[1]
        if smooth and _inside(y, down, length, height) and _inside(x, along, length, width):
            places[:] = 0
            _split(y, down, width, places, shares[0])
            _split(x, along, 1, places, shares[1])
            for c in range(channels):
                for j in range(out.shape[2]):
                    at = places[j] + c * plane
                    upper = _row(voxels, table, at, 0, 1, shares[1, j])
                    lower = _row(voxels, table, at + width, 0, 1, shares[1, j])
                    out[c, i, j] = upper + shares[0, j] * (lower - upper)
            continue
        for j in range(out.shape[2]):
            py, px = float(i), float(j)
            if shifts.size:
                py += shifts[0, i, j]
                px += shifts[1, i, j]
            y = matrix[0, 0] * py + matrix[0, 1] * px + offset[0]
            x = matrix[1, 0] * py + matrix[1, 1] * px + offset[1]
            if nearest:
                at = _mirrored(floor(y + 0.5), height) * width + _mirrored(floor(x + 0.5), width)
                for c in range(channels):
                    out[c, i, j] = _value(voxels[np.uint64(c * plane + at)], table)
                continue
            y0, x0 = floor(y), floor(x)
            fy, fx = np.float32(y - y0), np.float32(x - x0)
            y1, x1 = y0 + 1, x0 + 1
            if y0 < 0 or x0 < 0 or y1 >= height or x1 >= width:
                y0, y1 = _mirrored(y0, height), _mirrored(y1, height)
                x0, x1 = _mirrored(x0, width), _mirrored(x1, width)
            for c in range(channels):
                upper = _row(voxels, table, c * plane, y0 * width + x0, y0 * width + x1, fx)
                lower = _row(voxels, table, c * plane, y1 * width + x0, y1 * width + x1, fx)
                out[c, i, j] = upper + fy * (lower - upper)


@njit(nogil=True, cache=True, error_model="numpy")
def _warp_each(voxels, table, chosen, matrices, offsets, shifts, out):  # type: ignore[no-untyped-def]
    for i in range(len(chosen)):
        _warp_2d(voxels[chosen[i]], table, matrices[i], offsets[i], shifts, False, out[i])


@njit(nogil=True, cache=True, error_model="numpy")
def _warp_3d(source, table, matrix, offset, shifts, nearest, out):  # type: ignore[no-untyped-def]
    channels, depth, height, width = source.shape
    voxels, plane = source.reshape(-1), height * width
    smooth, length = not nearest and not shifts.size, out.shape[3]
    deep, down, along = matrix[0, 2], matrix[1, 2], matrix[2, 2]
    places, shares = np.empty(length, np.int64), np.empty((3, length), np.float32)
    for k in range(out.shape[1]):
        for i in range(out.shape[2]):
            z = matrix[0, 0] * k + matrix[0, 1] * i + offset[0]
            y = matrix[1, 0] * k + matrix[1, 1] * i + offset[1]
            x = matrix[2, 0] * k + matrix[2, 1] * i + offset[2]
            if (
                smooth
                and _inside(z, deep, length, depth)
                and _inside(y, down, length, height)
                and _inside(x, along, length, width)
            ):
                places[:] = 0
                _split(z, deep, plane, places, shares[0])
                _split(y, down, width, places, shares[1])
                _split(x, along, 1, places, shares[2])
                for c in range(channels):
                    for j in range(out.shape[3]):
                        at, fy, fx = places[j] + c * depth * plane, shares[1, j], shares[2, j]
                        upper = _row(voxels, table, at, 0, 1, fx)
                        front = upper + fy * (_row(voxels, table, at + width, 0, 1, fx) - upper)
                        upper = _row(voxels, table, at + plane, 0, 1, fx)
                        back = upper + fy * (_row(voxels, table, at + plane + width, 0, 1, fx) - upper)
                        out[c, k, i, j] = front + shares[0, j] * (back - front)
                continue
            for j in range(out.shape[3]):
                pz, py, px = float(k), float(i), float(j)
                if shifts.size:
                    pz += shifts[0, k, i, j]
                    py += shifts[1, k, i, j]
                    px += shifts[2, k, i, j]
                z = matrix[0, 0] * pz + matrix[0, 1] * py + matrix[0, 2] * px + offset[0]
                y = matrix[1, 0] * pz + matrix[1, 1] * py + matrix[1, 2] * px + offset[1]
                x = matrix[2, 0] * pz + matrix[2, 1] * py + matrix[2, 2] * px + offset[2]
                if nearest:
                    at = _mirrored(floor(z + 0.5), depth) * plane
                    at += _mirrored(floor(y + 0.5), height) * width + _mirrored(floor(x + 0.5), width)
                    for c in range(channels):
                        out[c, k, i, j] = _value(voxels[np.uint64(c * depth * plane + at)], table)
                    continue
                z0, y0, x0 = floor(z), floor(y), floor(x)
                fz, fy, fx = np.float32(z - z0), np.float32(y - y0), np.float32(x - x0)
                z1, y1, x1 = z0 + 1, y0 + 1, x0 + 1
                if z0 < 0 or y0 < 0 or x0 < 0 or z1 >= depth or y1 >= height or x1 >= width:
                    z0, z1 = _mirrored(z0, depth), _mirrored(z1, depth)
                    y0, y1 = _mirrored(y0, height), _mirrored(y1, height)
                    x0, x1 = _mirrored(x0, width), _mirrored(x1, width)
                for c in range(channels):
                    near, far = (c * depth + z0) * plane, (c * depth + z1) * plane
                    upper = _row(voxels, table, near, y0 * width + x0, y0 * width + x1, fx)
                    lower = _row(voxels, table, near, y1 * width + x0, y1 * width + x1, fx)
                    front = upper + fy * (lower - upper)
                    upper = _row(voxels, table, far, y0 * width + x0, y0 * width + x1, fx)
                    lower = _row(voxels, table, far, y1 * width + x0, y1 * width + x1, fx)
                    out[c, k, i, j] = front + fz * (upper + fy * (lower - upper) - front)
