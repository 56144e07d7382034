"""Shape of objects: axes of their second moments, perimeter, solidity. No loop over objects in Python.

Perimeter: K. Benkrid, D. Crookes, "Design and FPGA implementation of a perimeter estimator", IMVIP 2000, as in
scikit-image. Convex hulls are exact, in integers: each side of an object is one monotone chain over its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.measure import ObjectTable, measure_objects
from cellengine.ops.neighbours import check_connectivity, volume_shape
from cellengine.ops.threads import run_threads, split_range, worker_count


@dataclass(frozen=True, slots=True)
class ObjectShapes:
    """Shape of every object, one row each, in order of label. Lengths are in voxels, angles in radians."""

    label: NDArray[np.uint32]
    axis_major_length: NDArray[np.float64]
    """of the ellipse or ellipsoid with the same second moments"""
    axis_minor_length: NDArray[np.float64]
    eccentricity: NDArray[np.float64] | None
    """of that ellipse, 0 for a circle; None in 3D, as what follows"""
    orientation: NDArray[np.float64] | None
    """angle from the first axis (rows) to the major axis, -pi/2 to pi/2 counter-clockwise"""
    perimeter: NDArray[np.float64] | None
    """length of the border line through the pixels at the edge"""
    solidity: NDArray[np.float64] | None
    """area over the area of the convex hull"""

    def __len__(self) -> int:
        return len(self.label)


def measure_shapes(labels: NDArray[Any], *, workers: int | None = None) -> ObjectShapes:
    """Shapes of the objects of a label image (y, x) or (z, y, x).

    Equals skimage.measure.regionprops_table. O(voxels); memory 100 bytes a label up to the largest one, times
    `workers`, and 8 bytes a row of each object. Raises UsageError for another number of axes.
    """
    check_connectivity(1, labels.ndim)
    block = np.ascontiguousarray(labels, np.uint32).reshape(volume_shape(labels.shape))
    table = measure_objects(labels, workers=workers)
    inertia = _inertia(block, table, workers)
    # rounding can leave an eigenvalue of 0 a little below it
    moments = np.clip(np.linalg.eigvalsh(inertia), 0, None)
    if labels.ndim == 3:
        low, middle, high = moments.T
        major = np.sqrt(np.maximum(10 * (high + middle - low), 0))
        minor = np.sqrt(np.maximum(10 * (low + middle - high), 0))
        return ObjectShapes(table.label, major, minor, None, None, None, None)
    low, high = moments.T
    return ObjectShapes(
        table.label,
        4 * np.sqrt(high),
        4 * np.sqrt(low),
        np.sqrt(1 - np.divide(low, high, out=np.ones_like(low), where=high > 0)),
        _orientation(inertia),
        _perimeter(block[0], table, workers),
        table.area / _hull_areas(block[0], table, workers),
    )


def _places(table: ObjectTable) -> NDArray[np.int64]:
    """Row of the table of each label."""
    places = np.zeros(int(table.label.max(initial=0)) + 1, np.int64)
    places[table.label] = np.arange(len(table))
    return places


def _inertia(block: NDArray[np.uint32], table: ObjectTable, workers: int | None) -> NDArray[np.float64]:
    """Inertia tensors (n, ndim, ndim) of objects of unit mass."""
    ndim = table.centroid.shape[1]
    centre = np.zeros((len(table), 3))
    centre[:, 3 - ndim :] = table.centroid
    places = _places(table)
    rows = block.shape[0] * block.shape[1]
    threads = max(1, min(worker_count(workers), block.size // (8 * (len(table) + 1))))

    def add(part: tuple[int, int]) -> NDArray[np.float64]:
        sums = np.zeros((len(table), 6))
        _second_moments(block, *part, places, centre, sums)
        return sums

    sums = np.zeros((len(table), 6))
    for one in run_threads(add, split_range(rows, threads), threads):
        sums += one
    zz, yy, xx, zy, zx, yx = (sums / table.area[:, None]).T
    spread = np.array([[zz, zy, zx], [zy, yy, yx], [zx, yx, xx]]).transpose(2, 0, 1)[:, 3 - ndim :, 3 - ndim :]
    trace = np.trace(spread, axis1=1, axis2=2)
    return np.asarray(trace[:, None, None] * np.eye(ndim) - spread)


def _orientation(inertia: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b, c = inertia[:, 0, 0], inertia[:, 0, 1], inertia[:, 1, 1]
    return np.where(a == c, np.where(b < 0, np.pi / 4, -np.pi / 4), 0.5 * np.arctan2(-2 * b, c - a))


def _perimeter(plane: NDArray[np.uint32], table: ObjectTable, workers: int | None) -> NDArray[np.float64]:
    places = _places(table)
    threads = max(1, min(worker_count(workers), plane.size // (8 * (len(table) + 1))))

    def count(part: tuple[int, int]) -> NDArray[np.int64]:
        counts = np.zeros((len(table), 3), np.int64)
        _count_edges(plane, *part, places, _EDGE_KINDS, counts)
        return counts

    counts = np.zeros((len(table), 3), np.int64)
    for one in run_threads(count, split_range(len(plane), threads), threads):
        counts += one
    return np.asarray(counts @ np.array([1, np.sqrt(2), (1 + np.sqrt(2)) / 2]))


def _hull_areas(plane: NDArray[np.uint32], table: ObjectTable, workers: int | None) -> NDArray[np.int64]:
    top, bottom = table.bbox[:, 0], table.bbox[:, 2]
    first = np.concatenate([[0], np.cumsum(bottom - top)]).astype(np.int64)
    left, right = np.full(first[-1], plane.shape[1], np.int32), np.full(first[-1], -1, np.int32)
    places, areas = _places(table), np.zeros(len(table), np.int64)
    # a row of an object is written by the one thread that has this row of the picture
    run_threads(
        lambda part: _row_ends(plane, *part, places, first[:-1] - top, left, right),
        split_range(len(plane), worker_count(workers)),
        workers,
    )
    run_threads(
        lambda part: _fill_hulls(*part, first, left, right, areas),
        split_range(len(table), worker_count(workers)),
        workers,
    )
    return areas


def _edge_kinds() -> NDArray[np.int8]:
    """Which of the three lengths a pixel of the edge has, by 1 + 2 * straight + 10 * diagonal neighbours; -1: none."""
    kinds = np.full(50, -1, np.int8)
    kinds[[5, 7, 15, 17, 25, 27]] = 0
    kinds[[21, 33]] = 1
    kinds[[13, 23]] = 2
    return kinds


_EDGE_KINDS = _edge_kinds()


@njit(nogil=True, cache=True, error_model="numpy")
def _second_moments(
    labels: NDArray[np.uint32],
    begin: int,
    end: int,
    places: NDArray[np.int64],
    centre: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> None:
    """Add zz, yy, xx, zy, zx, yx about the centres for the rows begin ... end."""
    height, width = labels.shape[1], labels.shape[2]
    for line in range(begin, end):
        z, y = line // height, line % height
        here = labels[z, y]
        x = 0
        while x < width:
            label = here[x]
            start = x
            while x < width and here[x] == label:
                x += 1
            if label == 0:
                continue
            place = places[label]
            n = float(x - start)
            dz, dy = z - centre[place, 0], y - centre[place, 1]
            dx = 0.5 * (start + x - 1) - centre[place, 2]
            row = sums[place]
            row[0] += n * dz * dz
            row[1] += n * dy * dy
            row[2] += n * dx * dx + n * (n * n - 1) / 12
            row[3] += n * dz * dy
            row[4] += n * dz * dx
            row[5] += n * dy * dx


@njit(nogil=True, cache=True, error_model="numpy")
def _at_edge(plane: NDArray[np.uint32], y: int, x: int) -> bool:
    """Whether a pixel has a straight neighbour of another label, or one outside the picture."""
    if y == 0 or x == 0 or y == plane.shape[0] - 1 or x == plane.shape[1] - 1:
        return True
    label = plane[y, x]
    return bool(
        plane[y - 1, x] != label or plane[y + 1, x] != label or plane[y, x - 1] != label or plane[y, x + 1] != label
    )


@njit(nogil=True, cache=True, error_model="numpy")
def _count_edges(
    plane: NDArray[np.uint32],
    begin: int,
    end: int,
    places: NDArray[np.int64],
    kinds: NDArray[np.int8],
    counts: NDArray[np.int64],
) -> None:
    height, width = plane.shape
    for y in range(begin, end):
        for x in range(width):
            label = plane[y, x]
            if label == 0 or not _at_edge(plane, y, x):
                continue
            code = 1
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    ny, nx = y + dy, x + dx
                    if (dy == 0 and dx == 0) or ny < 0 or nx < 0 or ny >= height or nx >= width:
                        continue
                    if plane[ny, nx] == label and _at_edge(plane, ny, nx):
                        code += 2 if dy == 0 or dx == 0 else 10
            if kinds[code] >= 0:
                counts[places[label], kinds[code]] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _row_ends(
    plane: NDArray[np.uint32],
    begin: int,
    end: int,
    places: NDArray[np.int64],
    base: NDArray[np.int64],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
) -> None:
    """First and last pixel of each object in each of its rows; row y of object p is at base[p] + y."""
    for y in range(begin, end):
        for x in range(plane.shape[1]):
            label = plane[y, x]
            if label != 0:
                i = base[places[label]] + y
                left[i] = min(left[i], x)
                right[i] = max(right[i], x)


@njit(nogil=True, cache=True, error_model="numpy")
def _fill_hulls(
    begin: int,
    end: int,
    first: NDArray[np.int64],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    areas: NDArray[np.int64],
) -> None:
    """Pixels whose centres lie in or on the hull of the midpoints of all pixel sides, for objects begin ... end."""
    for place in range(begin, end):
        areas[place] = first[place + 1] - first[place]
        areas[place] += _reach(first[place], first[place + 1], right, left, 1)
        areas[place] -= _reach(first[place], first[place + 1], left, right, -1)


@njit(nogil=True, cache=True, error_model="numpy")
def _reach(begin: int, end: int, ends: NDArray[np.int32], others: NDArray[np.int32], sign: int) -> int:
    """Sum over rows of the last (sign 1) or first (sign -1) pixel inside the hull's side, which is concave.

    Everything is doubled: row r is at 2 r, its pixel at 2 x has midpoints at (2 r, 2 x + sign) and (2 r +- 1, 2 x).
    """
    ys, xs = np.empty(3 * (end - begin), np.int64), np.empty(3 * (end - begin), np.int64)
    n = 0
    for r in range(end - begin):
        if ends[begin + r] * sign < others[begin + r] * sign:
            continue  # an object in several parts has rows of its box without pixels
        for step in range(-1, 2):
            y = np.int64(2 * r + step)
            x = np.int64(2 * sign * ends[begin + r] + (1 if step == 0 else 0))
            if n > 0 and ys[n - 1] == y:
                if xs[n - 1] >= x:
                    continue
                n -= 1
            while n > 1 and (xs[n - 1] - xs[n - 2]) * (y - ys[n - 2]) <= (x - xs[n - 2]) * (ys[n - 1] - ys[n - 2]):
                n -= 1
            ys[n], xs[n] = y, x
            n += 1
    total, k = 0, 0
    for r in range(end - begin):
        while ys[k + 1] < 2 * r:
            k += 1
        run = ys[k + 1] - ys[k]
        total += (xs[k] * run + (xs[k + 1] - xs[k]) * (2 * r - ys[k])) // (2 * run)
    return sign * total
