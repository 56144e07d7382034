"""How thick the pieces of a mask are: the largest distance to the outside in each, without a distance image."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.runs import Components
from cellengine.ops.threads import run_threads

_GROUP = 1 << 18
_FACE, _EDGE, _CORNER = 3, 4, 5


def inscribed_radii(pieces: Components, workers: int | None = None) -> NDArray[np.float32]:
    """Radius in voxels of the largest ball inside each component, float32, one a component.

    By the chamfer distance 3-4-5 (Borgefors 1986), within 8 % of the Euclidean one. The border of the picture counts
    as outside. O(voxels of the pieces); memory 4 bytes a voxel of the box in work.
    """
    radii = np.zeros(pieces.count, np.float32)
    depth, height, _ = pieces.runs.shape

    def measure(group: tuple[int, int]) -> None:
        _measure(*pieces.listing, pieces.box, *group, height, depth > 1, radii)

    run_threads(measure, pieces.groups(_GROUP), workers)
    return radii


@njit(nogil=True, cache=True, error_model="numpy")
def _measure(
    order: NDArray[np.int64],
    first: NDArray[np.int64],
    row: NDArray[np.int32],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    box: NDArray[np.int32],
    begin: int,
    end: int,
    height: int,
    volume: bool,
    radii: NDArray[np.float32],
) -> None:
    """Two sweeps over the box of each component, with a border of zeros around it; a plane has none above and below."""
    for c in range(begin, end):
        z0, y0, x0, z1, y1, x1 = box[c]
        pad = 1 if volume else 0
        deep, high, wide = z1 - z0 + 2 * pad, y1 - y0 + 2, x1 - x0 + 2
        far = np.int32(_CORNER * (deep + high + wide))
        grid = np.zeros((deep, high, wide), np.int32)
        for k in range(first[c], first[c + 1]):
            run = order[k]
            z, y = row[run] // height - z0 + pad, row[run] % height - y0 + 1
            grid[z, y, start[run] - x0 + 1 : stop[run] - x0 + 1] = far
        for z in range(pad, deep - pad):
            for y in range(1, high - 1):
                for x in range(1, wide - 1):
                    if grid[z, y, x]:
                        grid[z, y, x] = _nearest(grid, z, y, x, 1, volume)
        largest = np.int32(0)
        for z in range(deep - pad - 1, pad - 1, -1):
            for y in range(high - 2, 0, -1):
                for x in range(wide - 2, 0, -1):
                    if grid[z, y, x]:
                        grid[z, y, x] = min(grid[z, y, x], _nearest(grid, z, y, x, -1, volume))
                        largest = max(largest, grid[z, y, x])
        radii[c] = largest / np.float32(_FACE)


@njit(nogil=True, cache=True, inline="always")
def _nearest(grid: NDArray[np.int32], z: int, y: int, x: int, back: int, volume: bool) -> np.int32:
    """The distance by way of the neighbours that the sweep has passed; `back` is 1 forwards and -1 backwards."""
    best = grid[z, y, x - back] + _FACE
    best = min(best, grid[z, y - back, x] + _FACE)
    best = min(best, grid[z, y - back, x - 1] + _EDGE)
    best = min(best, grid[z, y - back, x + 1] + _EDGE)
    if volume:
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                weight = _FACE + abs(dy) + abs(dx)
                best = min(best, grid[z - back, y + dy, x + dx] + weight)
    return np.int32(best)
