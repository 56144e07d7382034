"""Arrays on another grid over the same extent by a spline of order 3, box by box with the values of the whole.

What is prepared for training goes this way. A picture in `infer` goes by plain means (`resample`), and both see the
same detail: before an axis is reduced by a factor f it is smoothed by a Gaussian with the variance of a mean over f
voxels, (f^2 - 1) / 12. Without that, detail finer than the new voxels would alias.

Reference: M. Unser, "Splines: a perfect fit for signal and image processing", IEEE Signal Processing Magazine 16, 1999.
"""

from __future__ import annotations

from math import ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellengine.geometry import Region

POLE = sqrt(3) - 2
"""of the filter that turns values into coefficients of the cubic B-spline"""
_MEMORY = 10
"""voxels after which the filter has decayed to 2e-6"""
TRUNCATE = 4.0
"""the Gaussian ends after so many standard deviations"""


def spline_region(region: Region, shape: tuple[int, ...], new_shape: tuple[int, ...]) -> Region:
    """The box of an array of `shape` that `region` of the same array at `new_shape` is made of."""
    starts, stops = [], []
    for start, stop, size, new_size in zip(region.start, region.stop, shape, new_shape, strict=True):
        places, _ = _weights(start, stop, size, new_size)
        starts.append(int(places.min()))
        stops.append(int(places.max()) + 1)
    return Region(tuple(starts), tuple(stops))


def spline_box(
    values: NDArray[Any], region: Region, shape: tuple[int, ...], new_shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """The box `region` of an array of `shape` brought to `new_shape`, not rounded.

    values: the box `spline_region(region, shape, new_shape)` of the array; axes before those of `shape` are kept.
    Outside the array its mirror image continues it (d c b a | a b c d). Equal to scipy.ndimage.gaussian_filter1d along
    each axis and then map_coordinates(order=3) on the whole array, to 1e-5 of its range. One matrix product an axis;
    memory 16 bytes a voxel of the box that is read.
    """
    needed = spline_region(region, shape, new_shape)
    lead = values.ndim - len(shape)
    result = np.asarray(values, np.float64)
    # the axis that shrinks most comes first: the others then have less to do
    for axis in sorted(range(len(shape)), key=lambda i: new_shape[i] / shape[i]):
        if shape[axis] == new_shape[axis]:
            continue
        matrix = _matrix(region.start[axis], region.stop[axis], shape[axis], new_shape[axis], needed, axis)
        result = np.moveaxis(np.tensordot(matrix, result, axes=(1, lead + axis)), 0, lead + axis)
    return np.ascontiguousarray(result)


def nearest_voxels(start: int, stop: int, size: int, new_size: int) -> NDArray[np.int64]:
    """For the new voxels start ... stop of an axis the old voxel in which the centre of each lies."""
    return (2 * np.arange(start, stop, dtype=np.int64) + 1) * size // (2 * new_size)


def _matrix(start: int, stop: int, size: int, new_size: int, needed: Region, axis: int) -> NDArray[np.float64]:
    """(new voxels, old voxels of `needed`): the weights as a matrix."""
    places, weights = _weights(start, stop, size, new_size)
    matrix = np.zeros((stop - start, needed.shape[axis]))
    rows = np.broadcast_to(np.arange(stop - start)[:, None], places.shape)
    np.add.at(matrix, (rows, places - needed.start[axis]), weights)
    return matrix


def _weights(start: int, stop: int, size: int, new_size: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each new voxel the old voxels that it is made of and their weights, both (n, taps)."""
    new = np.arange(start, stop, dtype=np.int64)
    if size == new_size:
        return new[:, None], np.ones((len(new), 1))
    factor = size / new_size
    gaussian = _gaussian(sqrt(max(factor**2 - 1, 0) / 12))
    reach = len(gaussian) // 2
    centre = (new + 0.5) * factor - 0.5
    base = np.floor(centre).astype(np.int64)
    taps = np.arange(-reach - _MEMORY - 2, reach + _MEMORY + 3)
    cardinal = _cardinal(centre[:, None] - (base[:, None] + taps))
    weights = np.stack([np.convolve(row, gaussian, "same") for row in cardinal])
    weights /= weights.sum(axis=1, keepdims=True)
    place = (base[:, None] + taps) % (2 * size)
    return np.minimum(place, 2 * size - 1 - place), weights


def _gaussian(sigma: float) -> NDArray[np.float64]:
    reach = ceil(TRUNCATE * sigma)
    if reach == 0:
        return np.ones(1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    normal: NDArray[np.float64] = weights / weights.sum()
    return normal


def _cardinal(offset: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic spline that is 1 at 0 and 0 at every other whole number."""
    total = np.zeros_like(offset)
    for i in range(-_MEMORY, _MEMORY + 1):
        total += POLE ** abs(i) * _b_spline(offset - i)
    cardinal: NDArray[np.float64] = total * (-6 * POLE / (1 - POLE**2))
    return cardinal


def _b_spline(offset: NDArray[np.float64]) -> NDArray[np.float64]:
    distance = np.abs(offset)
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far)
