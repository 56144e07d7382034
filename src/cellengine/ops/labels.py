"""Label images: renumber, clean, grow, outline. One pass over the voxels each; 0 is background throughout."""

from __future__ import annotations

from typing import Any

import fastremap
import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.lists import lengthened
from cellengine.ops.neighbours import check_connectivity, volume_shape
from cellengine.ops.runs import connect, find_runs
from cellengine.ops.threads import run_threads, split_range, worker_count


def relabel(labels: NDArray[Any]) -> NDArray[np.uint32]:
    """Number the labels 1 ... n in raster order of first voxel. O(voxels); 4 bytes a voxel for the result."""
    if labels.size == 0:
        return np.zeros(labels.shape, np.uint32)
    flat = np.ascontiguousarray(labels).reshape(-1)
    # a dense table beats hashing as long as it is not much larger than the picture
    if flat.dtype.kind in "ub" and int(flat.max()) <= 2 * flat.size + 65536:
        source = flat.astype(np.uint32, copy=False)
        out = np.empty(flat.size, np.uint32)
        _number(source, np.zeros(int(flat.max()) + 1, np.uint32), out)
        return out.reshape(labels.shape)
    renumbered, _ = fastremap.renumber(flat.copy(), start=1, preserve_zero=True, in_place=True)
    return np.asarray(renumbered, np.uint32).reshape(labels.shape)


def remove_small(labels: NDArray[np.uint32], min_size_px: int) -> NDArray[np.uint32]:
    """Drop objects of fewer than `min_size_px` voxels; the others keep their labels. Two passes, O(voxels)."""
    flat = np.ascontiguousarray(labels, np.uint32).reshape(-1)
    out = np.empty(flat.size, np.uint32)
    _drop_small(flat, np.zeros(int(flat.max(initial=0)) + 1, np.int64), min_size_px, out)
    return out.reshape(labels.shape)


def fill_holes(labels: NDArray[np.uint32], max_hole_px: int | None = None) -> NDArray[np.uint32]:
    """Fill background that touches one label alone and no border, if of at most `max_hole_px` voxels (None = any size).

    O(voxels); 4 bytes a voxel for the result.
    """
    check_connectivity(1, labels.ndim)
    out = np.ascontiguousarray(labels).astype(np.uint32)
    shape = volume_shape(labels.shape)
    background = connect(find_runs((out == 0).reshape(shape), 0.5), 1)
    limit = out.size if max_hole_px is None else max_hole_px
    _fill_enclosed(*background.listing, background.box, background.voxels, *shape, limit, out.reshape(-1))
    return out


def grow(labels: NDArray[np.uint32], steps_px: int) -> NDArray[np.uint32]:
    """Grow every object by `steps_px` steps to face neighbours, at equal speed, into background only.

    A voxel that two objects reach in the same step goes to the one whose voxel comes first in raster order. O(voxels).
    """
    check_connectivity(1, labels.ndim)
    out = np.ascontiguousarray(labels).astype(np.uint32)
    if steps_px > 0 and out.size:
        _grow(out.reshape(-1), *volume_shape(labels.shape), steps_px)
    return out


def outlines(labels: NDArray[Any], *, workers: int | None = None) -> NDArray[np.bool_]:
    """Where an object's voxel touches, face to face, another label or background: the inner outline, for overlays.

    Equals skimage.segmentation.find_boundaries(labels, mode="inner"). O(voxels), 1 byte a voxel.
    """
    check_connectivity(1, labels.ndim)
    shape = volume_shape(labels.shape)
    volume = np.ascontiguousarray(labels, np.uint32).reshape(shape)
    out = np.zeros(shape, np.bool_)
    run_threads(
        lambda part: _outline_rows(volume, *part, out),
        split_range(shape[0] * shape[1], worker_count(workers)),
        workers,
    )
    return out.reshape(labels.shape)


@njit(nogil=True, cache=True, error_model="numpy")
def highest_channel(classes: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
    """First of the highest of classes (C, n) at each place."""
    best = classes[0].copy()
    out[:] = 0
    for c in range(1, classes.shape[0]):
        for i in range(out.size):
            if classes[c, i] > best[i] or (np.isnan(best[i]) and not np.isnan(classes[c, i])):
                best[i] = classes[c, i]
                out[i] = c


@njit(nogil=True, cache=True, error_model="numpy")
def _number(labels: NDArray[np.uint32], names: NDArray[np.uint32], out: NDArray[np.uint32]) -> int:
    count = 0
    last, name = np.uint32(0), np.uint32(0)
    for i in range(labels.size):
        if labels[i] != last:
            last = labels[i]
            if last != 0 and names[last] == 0:
                count += 1
                names[last] = count
            name = names[last]
        out[i] = name
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def _drop_small(labels: NDArray[np.uint32], sizes: NDArray[np.int64], min_size: int, out: NDArray[np.uint32]) -> None:
    for i in range(labels.size):
        sizes[labels[i]] += 1
    for i in range(labels.size):
        out[i] = labels[i] if sizes[labels[i]] >= min_size else np.uint32(0)


@njit(nogil=True, cache=True, error_model="numpy")
def _fill_enclosed(
    order: NDArray[np.int64],
    first: NDArray[np.int64],
    row: NDArray[np.int32],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    box: NDArray[np.int32],
    voxels: NDArray[np.int64],
    depth: int,
    height: int,
    width: int,
    limit: int,
    labels: NDArray[np.uint32],
) -> None:
    for c in range(voxels.size):
        z0, y0, x0, z1, y1, x1 = box[c]
        if voxels[c] > limit or y0 == 0 or x0 == 0 or y1 == height or x1 == width:
            continue
        if depth > 1 and (z0 == 0 or z1 == depth):
            continue
        around = np.uint32(0)
        enclosed = True
        for k in range(first[c], first[c + 1]):
            base = np.int64(row[order[k]]) * width
            for x in range(start[order[k]] - 1, stop[order[k]] + 1):
                i = base + x
                corner = x < start[order[k]] or x == stop[order[k]]
                for j in range(5):
                    if j == 0:
                        other = labels[i]
                    elif corner or (j > 2 and depth == 1):
                        continue
                    else:
                        step = width if j <= 2 else width * height
                        other = labels[i - step] if j % 2 else labels[i + step]
                    if other != 0:
                        enclosed = enclosed and (around == 0 or around == other)
                        around = other
        if enclosed:
            for k in range(first[c], first[c + 1]):
                base = np.int64(row[order[k]]) * width
                for inner in range(base + start[order[k]], base + stop[order[k]]):
                    labels[inner] = around


@njit(nogil=True, cache=True, error_model="numpy")
def _grow(labels: NDArray[np.uint32], depth: int, height: int, width: int, steps: int) -> None:
    ring = np.empty(1024, np.int64)
    front = 0
    for step in range(steps):
        found = 0
        fresh = np.empty(1024, np.int64)
        for k in range(labels.size if step == 0 else front):
            i = k if step == 0 else ring[k]
            label = labels[i]
            if label == 0 or (step == 0 and label >> np.uint32(31)):
                continue
            z, y, x = i // (height * width), i // width % height, i % width
            if found + 6 > fresh.size:
                fresh = lengthened(fresh, found, 2 * fresh.size)
            for side in range(6):
                if side == 0 and z > 0:
                    other = i - height * width
                elif side == 1 and y > 0:
                    other = i - width
                elif side == 2 and x > 0:
                    other = i - 1
                elif side == 3 and x < width - 1:
                    other = i + 1
                elif side == 4 and y < height - 1:
                    other = i + width
                elif side == 5 and z < depth - 1:
                    other = i + height * width
                else:
                    continue
                if labels[other] == 0:
                    # the top bit keeps what was grown in this sweep from growing on in it
                    labels[other] = label | np.uint32(0x80000000)
                    fresh[found] = other
                    found += 1
        for k in range(found):
            labels[fresh[k]] &= np.uint32(0x7FFFFFFF)
        ring, front = fresh, found


@njit(nogil=True, cache=True, error_model="numpy")
def _outline_rows(labels: NDArray[np.uint32], begin: int, end: int, out: NDArray[np.bool_]) -> None:
    depth, height, width = labels.shape
    for line in range(begin, end):
        z, y = line // height, line % height
        here = labels[z, y]
        above, below = labels[z, max(y - 1, 0)], labels[z, min(y + 1, height - 1)]
        over, under = labels[max(z - 1, 0), y], labels[min(z + 1, depth - 1), y]
        for x in range(width):
            label = here[x]
            edge = (above[x] != label) | (below[x] != label) | (over[x] != label) | (under[x] != label)
            edge |= (here[max(x - 1, 0)] != label) | (here[min(x + 1, width - 1)] != label)
            out[z, y, x] = edge & (label != 0)
