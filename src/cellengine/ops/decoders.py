"""From what a network says to labels: plain functions on arrays, 2D (y, x) and 3D (z, y, x). No models, no files.

Each labels connected pieces of foreground by themselves: the label of a piece depends on its own voxels and on a fixed
radius around it alone. A large picture may therefore be decoded in overlapping blocks, with the labels of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellengine.errors import UsageError
from cellengine.ops.basins import paint, split_components
from cellengine.ops.labels import grow, highest_channel, relabel
from cellengine.ops.neighbours import check_connectivity, steps_within
from cellengine.ops.runs import Components, connect, fill_small_holes, find_runs
from cellengine.ops.smooth import kernels
from cellengine.ops.threads import run_threads, split_range, worker_count

_GROUP = 1 << 18  # voxels of foreground that a thread takes on at a time


def distance_watershed(
    foreground: NDArray[Any],
    distance: NDArray[Any],
    *,
    threshold: float = 0.5,
    smoothing_px: float | Sequence[float] = 1.0,
    h: float = 0.05,
    min_size_px: int = 0,
    max_hole_px: int = 0,
    connectivity: int = 1,
    workers: int | None = None,
) -> NDArray[np.uint32]:
    """Split foreground into objects at the valleys of the predicted distance to the objects' edges.

    mask = foreground > threshold, holes of at most `max_hole_px` voxels filled; seeds = h-maxima of the distance,
    smoothed by a Gaussian of `smoothing_px` (one number, or one per axis); watershed of the negated distance inside the
    mask; objects below `min_size_px` voxels dropped. Every piece of the mask has at least one seed.

    foreground, distance: equal shapes, read as float32; h is in units of the distance.
    Returns uint32 labels 1 ... n in raster order of first voxel. Equal to `watershed(-gaussian(distance),
    h_maxima_seeds(...), mask)`, for any number of workers.

    O(voxels). Memory: 4 bytes a voxel for the labels, about 30 bytes a voxel of the pieces in work.
    """
    check_connectivity(connectivity, foreground.ndim)
    if foreground.shape != distance.shape:
        raise UsageError(f"Foreground {foreground.shape} and distance {distance.shape} were given: they must agree.")
    pieces = _pieces(foreground, threshold, max_hole_px, connectivity, workers)
    runs = pieces.runs
    source = np.ascontiguousarray(distance, np.float32).reshape(runs.shape)
    labels = np.zeros(foreground.size, np.uint32)
    taps = kernels(smoothing_px, foreground.ndim)
    steps = steps_within(connectivity, foreground.shape)
    groups = pieces.groups(_GROUP)

    def split(group: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        found: tuple[NDArray[np.int64], NDArray[np.int64]] = split_components(
            source, *pieces.listing, pieces.box, *group, *taps, steps, np.float32(h), min_size_px, labels
        )
        return found

    found = run_threads(split, groups, workers)
    if found:
        before = np.concatenate([[0], np.cumsum(np.concatenate([counts for counts, _ in found]))])
        names = _raster_names(np.concatenate([firsts for _, firsts in found]))
        width = runs.shape[2]
        run_threads(lambda group: paint(*pieces.listing, width, *group, before, names, labels), groups, workers)
    return labels.reshape(foreground.shape)


def components(
    foreground: NDArray[Any],
    *,
    threshold: float = 0.5,
    grow_px: int = 0,
    min_size_px: int = 0,
    max_hole_px: int = 0,
    connectivity: int = 1,
    workers: int | None = None,
) -> NDArray[np.uint32]:
    """Connected pieces of foreground > threshold, for networks that leave a gap between touching objects.

    `grow_px` gives the gap back: every object grows by so many steps to face neighbours, all at the same speed, and
    stops where it meets another. Returns uint32 labels 1 ... n in raster order of first voxel. O(voxels); memory 4
    bytes a voxel for the labels, and 4 more while growing.
    """
    check_connectivity(connectivity, foreground.ndim)
    pieces = _pieces(foreground, threshold, max_hole_px, connectivity, workers)
    kept = pieces.voxels >= min_size_px
    names = np.where(kept, np.cumsum(kept), 0).astype(np.uint32)
    ones = np.arange(pieces.count + 1)
    labels = np.zeros(foreground.size, np.uint32)

    def name(group: tuple[int, int]) -> None:
        paint(*pieces.listing, pieces.runs.shape[2], *group, ones, names, labels)

    run_threads(name, pieces.groups(_GROUP), workers)
    named: NDArray[np.uint32] = labels.reshape(foreground.shape)
    return relabel(grow(named, grow_px)) if grow_px > 0 else named


def argmax(classes: NDArray[Any], *, workers: int | None = None) -> NDArray[np.uint8]:
    """The class map of probabilities of shape (C, *spatial), C <= 256: the first of the highest channels.

    O(C voxels), one byte a voxel. NaN is never the highest.
    """
    if classes.ndim < 2 or not 1 <= classes.shape[0] <= 256:
        raise UsageError(
            f"Class scores of shape {classes.shape} were given: (C, *spatial) with C of 1 ... 256 expected."
        )
    flat = np.ascontiguousarray(classes, np.float32).reshape(len(classes), -1)
    out = np.empty(flat.shape[1], np.uint8)
    run_threads(
        lambda part: highest_channel(flat[:, part[0] : part[1]], out[part[0] : part[1]]),
        split_range(out.size, worker_count(workers)),
        workers,
    )
    return out.reshape(classes.shape[1:])


def _pieces(
    foreground: NDArray[Any], threshold: float, max_hole_px: int, connectivity: int, workers: int | None
) -> Components:
    return connect(fill_small_holes(find_runs(foreground, threshold, workers), max_hole_px), connectivity)


def _raster_names(firsts: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Numbers 1 ... n in order of first voxel; 0 for what is dropped (-1)."""
    names = np.zeros(len(firsts), np.uint32)
    kept = np.flatnonzero(firsts >= 0)
    names[kept[np.argsort(firsts[kept])]] = np.arange(1, len(kept) + 1, dtype=np.uint32)
    return names
