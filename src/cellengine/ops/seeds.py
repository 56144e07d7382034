"""Seeds for a watershed: h-maxima and local maxima, exact, plateaus counted once. 2D and 3D."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.errors import ResourceError, UsageError
from cellengine.ops.ascent import OUTSIDE, climb, flatten, join_domes, join_plateaus, mark_tops, shallow_seams
from cellengine.ops.neighbours import check_connectivity, flat_offsets, steps_within, volume_shape
from cellengine.ops.threads import run_threads, split_range, worker_count


def h_maxima(
    image: NDArray[Any],
    h: float,
    mask: NDArray[Any] | None = None,
    connectivity: int | None = None,
    *,
    workers: int | None = None,
) -> NDArray[np.bool_]:
    """Voxels of all maxima that rise at least `h` above every pass to a higher voxel, plateaus whole.

    Equals skimage.morphology.h_maxima; `connectivity` counts as there and is all neighbours when left out. With a mask,
    what is outside does not exist. Nothing is marked when h is larger than the range of the image.

    Float images are read as float32. O(voxels) plus a sort of the seams between basins that are shallower than h.
    Memory: 4 bytes a voxel, and 4 more for images that are not float32; 2^32 voxels at most.

    Method: P. Soille, Morphological Image Analysis, 2003, section 6.3.5, by basins in place of reconstruction.
    """  # fmt: skip
    connectivity = image.ndim if connectivity is None else connectivity
    basins = _climb(image, mask, connectivity, workers)
    marked = np.zeros(image.size, np.uint8)
    if len(basins.tops) and h <= float(np.ptp(basins.values[basins.parent != OUTSIDE])):
        marked[basins.tops[_peaks(basins, h, workers) >= 0]] = 1
        run_threads(
            lambda part: mark_tops(basins.values, basins.parent, *part, marked),
            split_range(image.size, worker_count(workers)),
            workers,
        )
    return marked.view(np.bool_).reshape(image.shape)


def h_maxima_seeds(
    image: NDArray[Any],
    h: float,
    mask: NDArray[Any] | None = None,
    connectivity: int = 1,
    *,
    workers: int | None = None,
) -> NDArray[np.uint32]:
    """One seed for each dome of height `h`: labels 1 ... n in raster order on the first voxel of each top.

    Maxima of equal height joined by a pass shallower than h share one seed, and the highest voxel of each connected
    piece of the mask is always a seed; else as `h_maxima`.
    """  # fmt: skip
    basins = _climb(image, mask, connectivity, workers)
    peak = _peaks(basins, h, workers)
    return _seed_image(basins.tops[peak == np.arange(len(peak))], image.shape)


def local_maxima_seeds(
    image: NDArray[Any],
    min_distance_px: float = 1.0,
    threshold: float | None = None,
    mask: NDArray[Any] | None = None,
    *,
    voxel_size: tuple[float, ...] | None = None,
    workers: int | None = None,
) -> NDArray[np.uint32]:
    """Local maxima among all neighbours, highest first, none within `min_distance_px` of a higher one kept.

    A plateau counts once, at its first voxel. Distances are Euclidean, in voxels, or in the unit of `voxel_size`.
    threshold: only maxima above it. Returns labels 1 ... n in raster order, one voxel each. O(voxels + maxima).
    """
    basins = _climb(image, mask, image.ndim, workers)
    tops = basins.tops
    if threshold is not None:
        tops = tops[basins.values[tops] > threshold]
    scale = np.ones(image.ndim) if voxel_size is None else np.asarray(voxel_size, np.float64)
    if len(scale) != image.ndim or not (scale > 0).all() or min_distance_px < 0:
        raise UsageError(
            f"voxel_size={voxel_size} and min_distance_px={min_distance_px}: {image.ndim} positive sizes are expected."
        )
    tops = tops[np.lexsort((tops, -basins.values[tops]))]
    places = np.zeros((len(tops), 3))
    places[:, 3 - image.ndim :] = np.stack(np.unravel_index(tops, image.shape), axis=1) * scale
    if len(tops) and min_distance_px > 0:
        # no cell smaller than a voxel: there are never more cells than voxels
        cell = ((places - places.min(axis=0)) / max(min_distance_px, float(scale.max()))).astype(np.int64)
        tops = tops[_keep_distant(places, cell, cell.max(axis=0) + 1, float(min_distance_px))]
    return _seed_image(np.sort(tops), image.shape)


@dataclass(frozen=True, slots=True)
class _Basins:
    values: NDArray[np.float32]
    parent: NDArray[np.uint32]
    tops: NDArray[np.int64]
    """highest first, in raster order among equals"""
    steps: NDArray[np.int64]
    shape: tuple[int, int, int]


def _climb(image: NDArray[Any], mask: NDArray[Any] | None, connectivity: int, workers: int | None) -> _Basins:
    check_connectivity(connectivity, image.ndim)
    if image.size >= OUTSIDE:
        raise ResourceError(
            f"An image of {image.size} voxels was given: maxima are found in up to 2^32; cut it in blocks."
        )
    if mask is not None and mask.shape != image.shape:
        raise UsageError(
            f"A mask of shape {mask.shape} was given with an image of shape {image.shape}: they must agree."
        )
    shape = volume_shape(image.shape)
    values = np.ascontiguousarray(image, np.float32).reshape(-1)
    parent = np.zeros(image.size, np.uint32)
    if mask is not None:
        parent[~np.ascontiguousarray(mask, np.bool_).reshape(-1)] = OUTSIDE
    steps = steps_within(connectivity, image.shape)
    rows = split_range(shape[0] * shape[1], worker_count(workers)) if image.size else []
    run_threads(lambda part: climb(values, parent, steps, flat_offsets(steps, shape), *part, *shape), rows, workers)
    join_plateaus(values, parent, steps, *shape)
    voxels = [(a * shape[2], b * shape[2]) for a, b in rows]
    tops = np.concatenate([np.zeros(0, np.int64), *run_threads(lambda part: flatten(parent, *part), voxels, workers)])
    return _Basins(values, parent, tops[np.argsort(-values[tops], kind="stable")], steps, shape)


def _peaks(basins: _Basins, h: float, workers: int | None) -> NDArray[np.int64]:
    """For each top itself, its twin of equal height, or -1: see `join_domes`."""
    # a seam is met from both sides: the steps forward see each one once
    steps = np.array([step for step in basins.steps.tolist() if step > [0, 0, 0]], np.int64).reshape(-1, 3)
    offsets = flat_offsets(steps, basins.shape)
    depth, height, _ = basins.shape
    found = run_threads(
        lambda part: shallow_seams(basins.values, basins.parent, steps, offsets, np.float32(h), *part, *basins.shape),
        split_range(depth * height, worker_count(workers)) if basins.values.size else [],
        workers,
    )
    passes = np.concatenate([np.zeros(0, np.float32), *(seams for _, seams in found)])
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *(tops for tops, _ in found)])
    order = np.argsort(-passes, kind="stable")
    by_voxel = np.argsort(basins.tops)
    dense = by_voxel[np.searchsorted(basins.tops, pairs[order], sorter=by_voxel)]
    peak: NDArray[np.int64] = join_domes(basins.values[basins.tops], dense, passes[order], np.float32(h))
    return peak


def _seed_image(voxels: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.uint32]:
    seeds = np.zeros(int(np.prod(shape)), np.uint32)
    seeds[np.sort(voxels)] = np.arange(1, len(voxels) + 1, dtype=np.uint32)
    return seeds.reshape(shape)


@njit(nogil=True, cache=True, error_model="numpy")
def _keep_distant(
    places: NDArray[np.float64], cell: NDArray[np.int64], cells: NDArray[np.int64], distance: float
) -> NDArray[np.bool_]:
    """Greedy choice in order: a place is kept when no kept one lies within `distance`.

    Kept places are listed by grid cell; cells are at least `distance` wide, so that 27 of them are enough to look at.
    """
    head = np.full(cells[0] * cells[1] * cells[2], -1, np.int64)
    following = np.full(len(places), -1, np.int64)
    keep = np.zeros(len(places), np.bool_)
    limit = distance * distance
    for i in range(len(places)):
        free = True
        for step in range(27):
            z, y, x = cell[i, 0] + step // 9 - 1, cell[i, 1] + step // 3 % 3 - 1, cell[i, 2] + step % 3 - 1
            if z < 0 or y < 0 or x < 0 or z >= cells[0] or y >= cells[1] or x >= cells[2]:
                continue
            other = head[(z * cells[1] + y) * cells[2] + x]
            while free and other >= 0:
                gap = 0.0
                for axis in range(3):
                    gap += (places[i, axis] - places[other, axis]) ** 2
                free = gap > limit
                other = following[other]
        if free:
            keep[i] = True
            home = (cell[i, 0] * cells[1] + cell[i, 1]) * cells[2] + cell[i, 2]
            following[i] = head[home]
            head[home] = i
    return keep
