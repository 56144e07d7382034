"""From what a network says to labels: plain functions on arrays, 2D (y, x) and 3D (z, y, x). No models, no files.

Each labels connected pieces of foreground by themselves: the label of a piece depends on its own voxels and on a fixed
radius around it alone. A large picture may therefore be decoded in overlapping blocks, with the labels of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray

from cellengine.errors import UsageError
from cellengine.ops.basins import paint, split_components
from cellengine.ops.graph import merge_regions
from cellengine.ops.holes import fill_small_holes
from cellengine.ops.labels import grow, highest_channel, relabel, remove_small
from cellengine.ops.neighbours import check_connectivity, listed, steps_within
from cellengine.ops.radii import inscribed_radii
from cellengine.ops.runs import Components, connect, find_runs
from cellengine.ops.seeds import local_maxima_seeds
from cellengine.ops.smooth import gaussian, kernels
from cellengine.ops.threads import run_threads, split_range, worker_count
from cellengine.ops.watershed import watershed

_GROUP = 1 << 18  # voxels of foreground that a thread takes on at a time
_THICKEST = np.float32(16)  # voxels; a larger piece is more often a clump than one large object


def distance_watershed(
    foreground: NDArray[Any],
    distance: NDArray[Any],
    *,
    threshold: float = 0.5,
    smoothing_px: float | Sequence[float] = 1.0,
    h: float = 0.05,
    h_per_px: float = 0.0,
    min_size_px: int = 0,
    max_hole_px: int = 0,
    connectivity: int = 1,
    workers: int | None = None,
) -> NDArray[np.uint32]:
    """Split foreground into objects at the valleys of the predicted distance to the objects' edges.

    mask = foreground > threshold, holes of at most `max_hole_px` voxels filled; seeds = h-maxima of the distance,
    smoothed by a Gaussian of `smoothing_px` (one number, or one per axis); watershed of the negated distance inside the
    mask; objects below `min_size_px` voxels dropped. Every piece of the mask has at least one seed.

    Large objects show ripples on their distance where small ones that touch have true valleys. With r the radius in
    voxels of the largest ball inside a piece (16 at most), its seeds are the maxima of height max(h, `h_per_px` * r).

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
    steps = listed(steps_within(connectivity, foreground.shape))
    groups = pieces.groups(_GROUP)
    heights = np.full(pieces.count, h, np.float32)
    if h_per_px > 0:
        radii = np.minimum(inscribed_radii(pieces, workers), _THICKEST)
        heights = np.maximum(heights, np.float32(h_per_px) * radii)

    def split(group: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        found: tuple[NDArray[np.int64], NDArray[np.int64]] = split_components(
            source, *pieces.listing, pieces.box, *group, *taps, steps, heights, min_size_px, labels
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


def boundary_watershed(
    boundary: NDArray[Any],
    *,
    threshold: float = 0.4,
    voxel_size: Sequence[float] | None = None,
    smoothing_px: float | Sequence[float] = 2.0,
    min_distance_px: float = 1.0,
    min_size_px: int = 0,
    merge_below: float | None = None,
    foreground: NDArray[Any] | None = None,
    connectivity: int = 1,
    workers: int | None = None,
) -> NDArray[np.uint32]:
    """Regions between predicted boundaries (0 ... 1), for tissue whose cells touch all around.

    Distance to the voxels with boundary > `threshold` (Euclidean, exact, in units of `voxel_size`), smoothed; its local
    maxima at least `min_distance_px` apart are the seeds; watershed of the boundary, read in 65,536 steps;
    with `merge_below` regions merged while the mean boundary between them is below it; regions below `min_size_px`
    dropped.
    foreground: only its true voxels are labelled. Returns uint32 labels 1 ... n in raster order.

    O(voxels); memory at the peak about 24 bytes a voxel. Method: A. Wolny et al., "Accurate and versatile 3D
    segmentation of plant tissues at cellular resolution", eLife 2020, 9:e57613.
    """
    check_connectivity(connectivity, boundary.ndim)
    scores = np.ascontiguousarray(boundary, np.float32)
    size = (1.0,) * boundary.ndim if voxel_size is None else tuple(float(s) for s in voxel_size)
    if len(size) != boundary.ndim or not all(s > 0 for s in size):
        raise UsageError(f"voxel_size={voxel_size} was given: {boundary.ndim} positive lengths are expected.")
    if scores.size == 0:
        return np.zeros(scores.shape, np.uint32)
    inside = scores <= np.float32(threshold)
    # without any boundary there is no distance to it: one region then, seeded anywhere
    distance = edt.edt(inside, anisotropy=size, parallel=worker_count(workers)) if not inside.all() else inside
    seeds = local_maxima_seeds(
        gaussian(distance, smoothing_px, workers=workers), min_distance_px, 0.0, foreground, workers=workers
    )
    relief = (np.clip(scores, 0, 1) * np.float32(65535) + np.float32(0.5)).astype(np.uint16)
    labels = watershed(relief, seeds, foreground, connectivity, workers=workers)
    if merge_below is not None:
        labels = merge_regions(labels, scores, merge_below, workers=workers)
    return relabel(remove_small(labels, min_size_px) if min_size_px > 0 else labels)


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
