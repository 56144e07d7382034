"""Labels of overlapping blocks become labels of the whole: which are one cell, and what its number is. No files.

Every block has labels of its own, 1 ... n. A (block, label) pair is a node, two labels that are one cell are a link,
union-find joins the nodes. A cell's number follows from its first voxel in the whole picture, so that neither the
order of the blocks nor that of the links matters. Counts and places are int64: no limit at 2^31 voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.errors import ResourceError
from cellengine.ops.neighbours import volume_shape
from cellengine.ops.overlap import overlap_table

Link = tuple[int, int, NDArray[np.int64]]
"""number of a block, number of another, and (n, 2) pairs of their labels that are one cell"""

_MOST_OBJECTS = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Kept:
    """What a block keeps of each of its labels: the voxels inside its core. Row 0 is background."""

    voxels: NDArray[np.int64]
    """number in the core; 0 where a label lies in the overlap alone"""
    first: NDArray[np.int64]
    """raster index in the whole picture of the first of them; -1 where there is none"""


def keep_core(core: NDArray[np.uint32], count: int, origin: Sequence[int], shape: Sequence[int]) -> Kept:
    """Count the labels 1 ... `count` of a block in its core, which lies at `origin` of a picture of `shape`.

    O(voxels of the core), 16 bytes a label.
    """
    voxels, first = np.zeros(count + 1, np.int64), np.full(count + 1, -1, np.int64)
    place = np.array([0] * (3 - len(origin)) + [int(o) for o in origin], np.int64)
    _, height, width = volume_shape(tuple(shape))
    block = np.ascontiguousarray(core).reshape(volume_shape(core.shape))
    _count_core(block, place, int(height), int(width), voxels, first)
    return Kept(voxels, first)


def agreeing(a: NDArray[Any], b: NDArray[Any], kept_a: Kept, kept_b: Kept) -> NDArray[np.int64]:
    """Pairs of labels that agree in the region that two blocks both saw: more than half of their union is shared.

    Only labels with voxels in the core of their own block count: what a block saw at its rim it may have seen cut.
    More than half, not half: a label matches one other at most, and two cells never become one through a label that
    covers both. Touching cells share no voxels and stay two. O(voxels of the region).
    """
    found = overlap_table(a, b)
    labels = np.stack([found.labels_a[found.rows], found.labels_b[found.columns]], axis=1).astype(np.int64)
    same = (found.iou > 0.5) & (kept_a.voxels[labels[:, 0]] > 0) & (kept_b.voxels[labels[:, 1]] > 0)
    pairs: NDArray[np.int64] = labels[same]
    return pairs


def sharing(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.int64]:
    """Pairs of labels that share a voxel: exact for connected components, of any size. O(voxels of the region)."""
    found = overlap_table(a, b)
    pairs = np.stack([found.labels_a[found.rows], found.labels_b[found.columns]], axis=1)
    return pairs.astype(np.int64)


def number_blocks(
    kept: Sequence[Kept], links: Iterable[Link], min_size_px: int = 0
) -> tuple[list[NDArray[np.uint32]], int]:
    """For every block the number in the whole of each of its labels, and how many objects there are.

    Numbers are 1 ... n in raster order of the first voxel; 0 for labels that no core keeps and for objects of fewer
    than `min_size_px` voxels. O(labels log labels); 36 bytes a label. ResourceError above 2^32 - 1 objects.
    """
    counts = [len(k.voxels) for k in kept]
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    parent = np.arange(int(offsets[-1]), dtype=np.int64)
    for block_a, block_b, pairs in links:
        _join(parent, pairs[:, 0] + offsets[block_a], pairs[:, 1] + offsets[block_b])
    if not len(parent):
        return [], 0
    voxels = np.concatenate([k.voxels for k in kept])
    first = np.concatenate([k.first for k in kept])
    _gather(parent, voxels, first)
    roots = np.flatnonzero((parent == np.arange(len(parent))) & (first >= 0) & (voxels >= min_size_px))
    if len(roots) > _MOST_OBJECTS:
        raise ResourceError(f"{len(roots):,} objects were found; labels of 32 bits name {_MOST_OBJECTS:,}.")
    names = np.zeros(len(parent), np.uint32)
    names[roots[np.argsort(first[roots])]] = np.arange(1, len(roots) + 1, dtype=np.uint32)
    names = names[parent]
    return [names[a:b] for a, b in pairwise(offsets)], len(roots)


@njit(nogil=True, cache=True)
def _count_core(
    core: NDArray[np.uint32],
    origin: NDArray[np.int64],
    height: int,
    width: int,
    voxels: NDArray[np.int64],
    first: NDArray[np.int64],
) -> None:
    for z in range(core.shape[0]):
        for y in range(core.shape[1]):
            row = ((z + origin[0]) * height + y + origin[1]) * width + origin[2]
            for x in range(core.shape[2]):
                label = core[z, y, x]
                if label != 0:
                    if voxels[label] == 0:
                        first[label] = row + x
                    voxels[label] += 1


@njit(nogil=True, cache=True)
def _root(parent: NDArray[np.int64], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def _join(parent: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
    for i in range(a.size):
        p, q = _root(parent, a[i]), _root(parent, b[i])
        # the lower node stays the root: the forest does not depend on the order of the links
        if p < q:
            parent[q] = p
        else:
            parent[p] = q


@njit(nogil=True, cache=True)
def _gather(parent: NDArray[np.int64], voxels: NDArray[np.int64], first: NDArray[np.int64]) -> None:
    """Point every node at its root, and add up there what the cores keep."""
    for i in range(parent.size):
        root = _root(parent, i)
        parent[i] = root
        if root != i:
            voxels[root] += voxels[i]
            if first[i] >= 0 and (first[root] < 0 or first[i] < first[root]):
                first[root] = first[i]
