"""Which objects of two label images share voxels, and how many: a sparse contingency table in one pass.

Nothing here knows about truth, prediction or scores; `cellengine.metrics` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, uint64

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[Any]
Keys = npt.NDArray[np.uint64]

CHUNK = 1 << 20
"""voxels looked at together where a cast or a contiguous copy is needed: the copy stays in the second-level cache"""

FIRST_CAPACITY = 1 << 10


@dataclass(frozen=True, slots=True)
class Overlap:
    """The objects of two label images `a` and `b`, and every pair of them that shares a voxel.

    Background (label 0) is no object. What an object shares with the background of the other image follows from
    its size: `sizes_a[i]` minus the `counts` of its pairs.
    """

    labels_a: Labels
    """labels of `a` in ascending order, shape (n,), dtype of `a`; gaps are allowed"""
    labels_b: Labels
    """labels of `b` in ascending order, shape (m,), dtype of `b`"""
    sizes_a: Ints
    """voxels of each object of `a`, shape (n,)"""
    sizes_b: Ints
    """voxels of each object of `b`, shape (m,)"""
    rows: Ints
    """for each pair, the index into `labels_a`; pairs are sorted by row, then column"""
    columns: Ints
    """for each pair, the index into `labels_b`"""
    counts: Ints
    """for each pair, the voxels that both objects cover; never 0"""
    voxels: int
    """voxels of the image, background included"""

    @property
    def iou(self) -> Floats:
        """Intersection over union of each pair, in (0, 1]."""
        return self.counts / (self.sizes_a[self.rows] + self.sizes_b[self.columns] - self.counts)


def overlap_table(a: Labels, b: Labels) -> Overlap:
    """Count the voxels that every label of `a` shares with every label of `b`.

    Args:
        a: label image of any shape and any integer or boolean dtype; every value but 0 is an object
        b: label image of the same shape; its dtype may differ

    Equal neighbours are counted as runs and only the runs go through a hash table of the pairs, so the cost is one
    read of both images and one look-up a run. Time O(voxels + pairs log pairs); memory 48 to 96 bytes a pair, plus
    at most 16 MiB for images that are not contiguous or narrower than 32 bits; no copy of the images, no n x m matrix.

    Raises ValueError when the shapes differ or a dtype is neither integer nor boolean.
    """
    if a.shape != b.shape:
        raise ValueError(f"Label images of shapes {a.shape} and {b.shape} cannot be compared: shapes must be equal.")
    for image in (a, b):
        if image.dtype.kind not in "iub":
            raise ValueError(f"A label image holds integers; found {image.dtype}.")
    word = np.uint64 if max(a.dtype.itemsize, b.dtype.itemsize) > 4 else np.uint32
    keys_a, keys_b, counts = _empty_table(FIRST_CAPACITY)
    used = 0
    for part_a, part_b in _parts(a, b):
        words_a, words_b = _as_words(part_a, word), _as_words(part_b, word)
        done = 0
        while done < words_a.size:
            done, used = _count_runs(words_a, words_b, done, keys_a, keys_b, counts, used)
            if 2 * used >= counts.size:
                larger = _empty_table(2 * counts.size)
                _move(keys_a, keys_b, counts, *larger)
                keys_a, keys_b, counts = larger
    filled = counts > 0
    return _sorted_table(
        _from_words(keys_a[filled], a.dtype), _from_words(keys_b[filled], b.dtype), counts[filled], a.size
    )


def _sorted_table(pair_a: Labels, pair_b: Labels, counts: Ints, voxels: int) -> Overlap:
    """Sizes, and pairs by index instead of by label; pairs with background go into the sizes alone."""
    labels_a, rows = np.unique(pair_a, return_inverse=True)
    labels_b, columns = np.unique(pair_b, return_inverse=True)
    sizes_a, sizes_b = np.zeros(labels_a.size, np.int64), np.zeros(labels_b.size, np.int64)
    np.add.at(sizes_a, rows, counts)
    np.add.at(sizes_b, columns, counts)
    objects_a, objects_b = labels_a != 0, labels_b != 0
    both = objects_a[rows] & objects_b[columns]
    rows = (np.cumsum(objects_a) - 1)[rows[both]]
    columns = (np.cumsum(objects_b) - 1)[columns[both]]
    order = np.lexsort((columns, rows))
    return Overlap(
        labels_a=labels_a[objects_a],
        labels_b=labels_b[objects_b],
        sizes_a=sizes_a[objects_a],
        sizes_b=sizes_b[objects_b],
        rows=rows[order],
        columns=columns[order],
        counts=counts[both][order],
        voxels=voxels,
    )


def _parts(a: Labels, b: Labels) -> Iterator[tuple[Labels, Labels]]:
    """Both images as flat contiguous pieces of about CHUNK voxels, in the same order; views where that is possible."""
    if a.flags.c_contiguous and b.flags.c_contiguous:
        a, b = a.reshape(-1), b.reshape(-1)
    a, b = np.atleast_1d(a), np.atleast_1d(b)
    step = max(1, CHUNK * len(a) // max(1, a.size))
    for start in range(0, len(a), step):
        yield (
            np.ascontiguousarray(a[start : start + step]).reshape(-1),
            np.ascontiguousarray(b[start : start + step]).reshape(-1),
        )


def _as_words(labels: Labels, word: type[np.uint32] | type[np.uint64]) -> Labels:
    """The bits of `labels` as unsigned words: a view where the width fits, so that two compiled kernels serve all."""
    if labels.dtype.itemsize == np.dtype(word).itemsize and labels.dtype.isnative:
        return labels.view(word)
    return labels.astype(word)


def _from_words(keys: Keys, dtype: np.dtype[Any]) -> Labels:
    """Undo `_as_words`: casts wrap around, so negative labels come back as they were."""
    return keys.astype(bool) if dtype.kind == "b" else keys.astype(dtype.newbyteorder("="))


def _empty_table(capacity: int) -> tuple[Keys, Keys, Ints]:
    """Label of `a`, label of `b` and voxels of each slot; a slot without voxels is free. Capacity: a power of two."""
    return np.zeros(capacity, np.uint64), np.zeros(capacity, np.uint64), np.zeros(capacity, np.int64)


@njit(cache=True, nogil=True)
def _slot(keys_a: Keys, keys_b: Keys, counts: Ints, key_a: int, key_b: int) -> int:
    """Where the pair is, or the free slot where it belongs (linear probing; the table is never more than half full)."""
    mask = uint64(counts.size - 1)
    mixed = (key_a + key_b * uint64(0x9E3779B97F4A7C15)) * uint64(0xC2B2AE3D27D4EB4F)
    slot = (mixed >> uint64(32)) & mask
    while counts[slot] != 0 and (keys_a[slot] != key_a or keys_b[slot] != key_b):
        slot = (slot + uint64(1)) & mask
    return int(slot)


@njit(cache=True, nogil=True)
def _count_runs(
    a: Labels, b: Labels, start: int, keys_a: Keys, keys_b: Keys, counts: Ints, used: int
) -> tuple[int, int]:
    """Add the runs of equal pairs from `start` on; returns where it stopped, at the end or at a half-full table.

    Compiled for 32-bit and 64-bit words only.
    """
    while start < a.size and 2 * used < counts.size:
        label_a, label_b = a[start], b[start]
        stop = start + 1
        while stop < a.size and a[stop] == label_a and b[stop] == label_b:
            stop += 1
        slot = _slot(keys_a, keys_b, counts, uint64(label_a), uint64(label_b))
        if counts[slot] == 0:
            keys_a[slot], keys_b[slot] = label_a, label_b
            used += 1
        counts[slot] += stop - start
        start = stop
    return start, used


@njit(cache=True, nogil=True)
def _move(keys_a: Keys, keys_b: Keys, counts: Ints, new_a: Keys, new_b: Keys, new_counts: Ints) -> None:
    """Enter the pairs of a full table into an empty larger one."""
    for old in range(counts.size):
        if counts[old] != 0:
            new = _slot(new_a, new_b, new_counts, keys_a[old], keys_b[old])
            new_a[new], new_b[new], new_counts[new] = keys_a[old], keys_b[old], counts[old]
