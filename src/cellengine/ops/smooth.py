"""Gaussian smoothing, separable, of whole arrays and of boxes cut out of them: the same numbers to the last bit.

Axes are taken in order z, y, x and taps from low to high, in float32; the picture continues outside its borders by
reflection (d c b a | a b c d | d c b a), as in scipy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.errors import UsageError
from cellengine.ops.neighbours import check_connectivity, volume_shape
from cellengine.ops.threads import run_threads, split_range, worker_count

TRUNCATE = 4.0
"""the kernel ends this many sigmas from its centre"""


def gaussian(image: NDArray[Any], sigma: float | Sequence[float], *, workers: int | None = None) -> NDArray[np.float32]:
    """Smooth a 2D or 3D image; sigma in voxels, one number or one per axis (0 leaves an axis as it is).

    Equals scipy.ndimage.gaussian_filter (mode "reflect", truncate 4) to float32 rounding. O(voxels * sigma); memory 4
    bytes a voxel for the result and a few slabs.
    """
    check_connectivity(1, image.ndim)
    shape = volume_shape(image.shape)
    source = np.ascontiguousarray(image, np.float32).reshape(shape)
    taps = kernels(sigma, image.ndim)
    result = np.empty(image.shape, np.float32)
    out = result.reshape(shape)

    def smooth_slab(part: tuple[int, int]) -> None:
        # thin slabs along the first long axis keep the intermediate planes in cache
        a, b = part
        box = (0, a, 0, 1, b, shape[2]) if shape[0] == 1 else (a, 0, 0, b, shape[1], shape[2])
        target = out[:, a:b] if shape[0] == 1 else out[a:b]
        target[...] = smooth_box(source, np.array(box, np.int32), *taps)

    axis = 1 if shape[0] == 1 else 0
    thick = 64 if shape[0] == 1 else 16
    parts = max(worker_count(workers), shape[axis] // thick)
    if image.size:
        run_threads(smooth_slab, split_range(shape[axis], parts), workers)
    return result


def kernels(sigma: float | Sequence[float], ndim: int) -> tuple[NDArray[np.float32], ...]:
    """The taps along z, y, x; one tap of 1 where there is nothing to smooth. Raises UsageError."""
    sigmas = [float(sigma)] * ndim if isinstance(sigma, int | float) else [float(s) for s in sigma]
    if len(sigmas) != ndim or not all(0 <= s < 1000 for s in sigmas):
        raise UsageError(f"sigma={sigma} was given: one number of voxels, or {ndim}, from 0 to 1000 are expected.")
    return tuple(_kernel(s) for s in [0.0] * (3 - ndim) + sigmas)


def _kernel(sigma: float) -> NDArray[np.float32]:
    radius = int(TRUNCATE * sigma + 0.5)
    if radius == 0:
        return np.ones(1, np.float32)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


@njit(nogil=True, cache=True, error_model="numpy")
def _reflect(i: int, n: int) -> int:
    period = 2 * n
    i %= period
    return i if i < n else period - 1 - i


@njit(nogil=True, cache=True, error_model="numpy")
def smooth_box(
    source: NDArray[np.float32],
    box: NDArray[np.int32],
    taps_z: NDArray[np.float32],
    taps_y: NDArray[np.float32],
    taps_x: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Smoothed values inside `box` (z0, y0, x0, z1, y1, x1), as if the whole of `source` had been smoothed."""
    depth, height, width = source.shape
    z0, y0, x0, z1, y1, x1 = box
    rz, ry, rx = taps_z.size // 2, taps_y.size // 2, taps_x.size // 2
    wide = x1 - x0 + 2 * rx
    out = np.empty((z1 - z0, y1 - y0, x1 - x0), np.float32)
    plane = np.empty((y1 - y0 + 2 * ry, wide), np.float32)
    line = np.empty(wide, np.float32)
    left, right = max(x0 - rx, 0), min(x1 + rx, width)
    for z in range(z0, z1):
        for y in range(y0 - ry, y1 + ry):
            target = plane[y - y0 + ry]
            from_y = _reflect(y, height)
            for k in range(taps_z.size):
                values, tap = source[_reflect(z + k - rz, depth), from_y], taps_z[k]
                if k == 0:
                    for x in range(left, right):
                        target[x - x0 + rx] = tap * values[x]
                else:
                    for x in range(left, right):
                        target[x - x0 + rx] += tap * values[x]
        for y in range(y1 - y0):
            for k in range(taps_y.size):
                values, tap = plane[y + k], taps_y[k]
                if k == 0:
                    for x in range(left - x0 + rx, right - x0 + rx):
                        line[x] = tap * values[x]
                else:
                    for x in range(left - x0 + rx, right - x0 + rx):
                        line[x] += tap * values[x]
            # a column outside the image is its mirror image, which always lies among those just computed
            for x in range(x0 - rx, left):
                line[x - x0 + rx] = line[_reflect(x, width) - x0 + rx]
            for x in range(right, x1 + rx):
                line[x - x0 + rx] = line[_reflect(x, width) - x0 + rx]
            result = out[z - z0, y]
            for k in range(taps_x.size):
                tap = taps_x[k]
                if k == 0:
                    for x in range(x1 - x0):
                        result[x] = tap * line[x]
                else:
                    for x in range(x1 - x0):
                        result[x] += tap * line[x + k]
    return out
