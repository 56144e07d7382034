"""Seeded watershed in 2D and 3D, exact: priority flood, first in first out among equals, seeds in raster order.

Method: Meyer's flooding with hierarchical queues (F. Meyer, "Topographic distance and watershed lines", Signal
Processing 38, 1994). Priorities never fall: a voxel below the flood's level is flooded at that level.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from cellengine.errors import InputError, ResourceError, UsageError
from cellengine.ops.flood import LARGEST_LABEL, flood, flood_with_lines
from cellengine.ops.flood_floats import flood_floats
from cellengine.ops.neighbours import check_connectivity, listed, steps_within, volume_shape
from cellengine.ops.queues import prepare_bins, prepare_levels, prepare_ranks
from cellengine.ops.runs import Runs, connect, find_runs
from cellengine.ops.threads import run_threads

_GROUP = 1 << 16  # voxels that one flood takes on at a time: what it touches then stays in a core's cache


def watershed(
    image: NDArray[Any],
    markers: ArrayLike,
    mask: NDArray[Any] | None = None,
    connectivity: int = 1,
    watershed_line: bool = False,
    *,
    workers: int | None = 1,
    overlap_px: int | None = None,
) -> NDArray[np.uint32]:
    """Flood `image` (y, x) or (z, y, x) from `markers`, lowest values first.

    image: relief of any real dtype, flooded exactly: 8 and 16 bit level by level, float32 by coarse bins that are
        sorted one at a time; what float32 cannot hold goes by its rank. NaN is flooded last.
    markers: label image of the seeds (0 = none, labels below 2^31 - 1), or coordinates of shape (n, ndim), which become
        the labels 1 ... n. Seeds outside the mask are ignored.
    mask: only its true voxels are flooded. Components of the mask without a seed stay 0.
    connectivity: 1, 2 or 3 as in scikit-image: 4, 8 or 6, 18, 26 neighbours.
    watershed_line: leave a line of 0 between basins, one voxel thick.
    workers: threads (None = all processors), of use with a mask: its components are flooded independently, with exactly
        the labels of one thread.
    overlap_px: an approximation for confluent tissue, whose mask is one huge component. The image is flooded in slabs
        of 8 * `overlap_px` planes (rows in 2D), each with `overlap_px` more on either side that are thrown away; one
        item of work for a thread each, at 1.25 times the work. Where no basin reaches farther than the overlap, all
        that differs from the exact flood are voxels at which two basins arrive at once. The labels are the same for any
        number of workers. None is exact.

    Returns uint32 labels. Equal to scikit-image label for label where seeds are single voxels of distinct levels
    (scikit-image takes seeds of one level in no defined order).

    Time is O(voxels) on smooth relief of any dtype, O(voxels * log) at worst for floats. Memory in bytes a flooded
    voxel, beside image, markers and mask: 4 for the labels and 4 for the queue (8 beyond 2^32 voxels), and some
    thousandths for the frontier; `watershed_line` 1 more, and 20 more with floats. With a mask the queue is only as
    long as the components in work. Markers that are not int32 or uint32
    are copied: 4 more.

    Raises UsageError for shapes and connectivity, InputError for labels out of range.
    """
    check_connectivity(connectivity, image.ndim)
    labels = _marker_image(markers, image.shape)
    if overlap_px is not None:
        if overlap_px < 1 or watershed_line:
            raise UsageError(f"overlap_px={overlap_px} was given: at least 1 is expected, and no watershed_line.")
        return _flood_slabs(image, labels.reshape(image.shape), mask, connectivity, overlap_px, workers)
    runs = _whole(image.shape) if mask is None else find_runs(_as_mask(mask, image.shape), 0.5, workers)
    components = connect(runs, connectivity)
    relief, narrow = _relief(image)
    if not narrow and image.size >= 1 << 32:
        raise ResourceError(
            f"A relief of {image.dtype} and {image.size} voxels was given: beyond 2^32 voxels it must be 8 or 16 bit."
        )
    shape = volume_shape(image.shape)
    steps = steps_within(connectivity, image.shape)
    listed_steps = listed(steps)
    work = np.zeros(image.size, np.uint32)
    index = np.uint32 if image.size < 1 << 32 else np.uint64

    def flood_group(group: tuple[int, int]) -> None:
        where = (*components.listing, *group, shape[2])
        if narrow:
            valid, seeds, levels, starts, size = prepare_levels(relief, labels, *where, work, np.zeros(1, index))
        elif not watershed_line:
            valid, seeds, levels, starts, size = prepare_bins(relief, labels, *where, work)
        else:
            valid, seeds, levels, starts, size = prepare_ranks(relief, labels, *where, work)
        if not valid:
            raise InputError(f"A marker outside 1 ... {LARGEST_LABEL - 1} was found: relabel the markers first.")
        if len(seeds) == 0:
            return
        queue, tails = np.empty(size, index), np.empty_like(starts)
        if watershed_line:
            flood_with_lines(work, seeds, levels, starts, tails, queue, steps, *shape)
        elif not narrow:
            flood_floats(relief, work, seeds, levels, starts, tails, queue, listed_steps, *shape)
        else:
            flood(work, seeds, levels, starts, tails, queue, listed_steps, *shape)

    # lines take a byte a voxel of the whole image for each flood: one flood for all
    run_threads(flood_group, components.groups(image.size if watershed_line else _GROUP), workers)
    return work.reshape(image.shape)


def _flood_slabs(
    image: NDArray[Any],
    labels: NDArray[np.uint32],
    mask: NDArray[Any] | None,
    connectivity: int,
    overlap: int,
    workers: int | None,
) -> NDArray[np.uint32]:
    """The labels of slabs, flooded apart; what no seed within its slab reached is flooded from them in the end."""
    inside = np.ones(image.shape, np.bool_) if mask is None else _as_mask(mask, image.shape)
    found = np.zeros(image.shape, np.uint32)

    def flood_slab(start: int) -> None:
        stop = min(start + 8 * overlap, len(image))
        read = slice(max(start - overlap, 0), stop + overlap)
        slab = watershed(image[read], labels[read], inside[read], connectivity)
        found[start:stop] = slab[start - read.start : stop - read.start]

    run_threads(flood_slab, range(0, len(image), 8 * overlap), workers)
    rest = inside & (found == 0)
    if rest.any():
        around = ndimage.binary_dilation(rest, ndimage.generate_binary_structure(image.ndim, connectivity))
        found[rest] = watershed(image, found, inside & around, connectivity, workers=workers)[rest]
    return found


def _marker_image(markers: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    """The seeds as a flat label image."""
    array = np.asarray(markers)
    if array.dtype.kind not in "iub":
        raise UsageError(f"Markers of type {array.dtype} were given: integers are expected.")
    if array.shape == shape:
        if array.dtype.itemsize > 4 and array.size and not 0 <= int(array.min()) <= int(array.max()) < LARGEST_LABEL:
            raise InputError(f"A marker outside 1 ... {LARGEST_LABEL - 1} was found: relabel the markers first.")
        flat = np.ascontiguousarray(array).reshape(-1)
        # read as unsigned, a negative int32 is out of range, which the flood finds by itself
        return flat.view(np.uint32) if flat.dtype == np.int32 else flat.astype(np.uint32, copy=False)
    if array.ndim != 2 or array.shape[1] != len(shape):
        raise UsageError(
            f"Markers of shape {array.shape} were given: expected {shape} or coordinates (n, {len(shape)})."
        )
    if len(array) and ((array < 0).any() or (array >= np.array(shape)).any()):
        raise InputError(f"A marker coordinate lies outside the image of shape {shape}.")
    labels = np.zeros(shape, np.uint32)
    labels[tuple(array.T)] = np.arange(1, len(array) + 1, dtype=np.uint32)
    return labels.reshape(-1)


def _as_mask(mask: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise UsageError(f"A mask of shape {mask.shape} was given with an image of shape {shape}: they must agree.")
    return mask.astype(np.bool_, copy=False)


def _whole(shape: tuple[int, ...]) -> Runs:
    """Every voxel of an image: one run a row."""
    depth, height, width = volume_shape(shape)
    rows = depth * height if width else 0
    return Runs(
        (depth, height, width),
        np.minimum(np.arange(depth * height + 1), rows),
        np.zeros(rows, np.int32),
        np.full(rows, width, np.int32),
    )


def _relief(image: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """The relief, flat, as uint8 or uint16 levels (True) or as bits of float32 (False). Order is kept exactly."""
    flat = np.ascontiguousarray(image).reshape(-1)
    if flat.dtype.kind not in "biuf":
        raise UsageError(f"A relief of type {image.dtype} was given: real numbers are expected.")
    if flat.dtype.itemsize == 1 or (flat.dtype.kind in "iu" and flat.dtype.itemsize == 2):
        width = flat.dtype.itemsize
        unsigned = flat.astype(flat.dtype.newbyteorder("="), copy=False).view(f"u{width}")
        # flipping the sign bit turns signed order into unsigned order
        return (unsigned ^ unsigned.dtype.type(1 << (8 * width - 1)) if flat.dtype.kind == "i" else unsigned), True
    single = flat.astype(np.float32, copy=False)
    wide = flat.dtype.itemsize > 4 or flat.dtype.kind in "iu"
    if wide and not np.array_equal(single.astype(flat.dtype), flat, equal_nan=flat.dtype.kind == "f"):
        # too fine for float32: ranks are as good as values, and read as bits of positive floats they keep their order
        return np.unique(flat, return_inverse=True)[1].astype(np.uint32).reshape(-1), False
    return single.view(np.uint32), False
