"""The region adjacency graph of a label image, and merging of its regions by mean boundary.

Method: GASP with average linkage (A. Bailoni et al., "GASP, a generalized framework for agglomerative clustering of
signed graphs", CVPR 2022): the two regions with the weakest mean boundary between them merge first, contacts add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.errors import UsageError
from cellengine.ops.labels import relabel
from cellengine.ops.neighbours import check_connectivity, volume_shape
from cellengine.ops.threads import run_threads, split_range, worker_count


@dataclass(frozen=True, slots=True)
class RegionGraph:
    """Contacts between regions: one row a pair that shares faces, in order of pair. Blocks add up by `merge`."""

    pairs: NDArray[np.uint32]
    """(n, 2), lower label first"""
    faces: NDArray[np.int64]
    """number of voxel faces between the two"""
    total: NDArray[np.float64]
    """sum over the faces of the boundary value, the mean of the two voxels of a face"""

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean boundary of each contact."""
        return self.total / self.faces

    def merge(self, other: RegionGraph) -> RegionGraph:
        """The contacts of both: of blocks of one image that count no face twice."""
        return _graph(
            np.concatenate([self.pairs, other.pairs]),
            np.concatenate([self.faces, other.faces]),
            np.concatenate([self.total, other.total]),
        )


def region_graph(labels: NDArray[Any], boundary: NDArray[Any], *, workers: int | None = None) -> RegionGraph:
    """Contacts of the regions of a label image (y, x) or (z, y, x); 0 is no region. O(voxels) in one parallel pass."""
    check_connectivity(1, labels.ndim)
    if labels.shape != boundary.shape:
        raise UsageError(f"Labels {labels.shape} and boundary {boundary.shape} were given: they must agree.")
    shape = volume_shape(labels.shape)
    regions = np.ascontiguousarray(labels, np.uint32).reshape(shape)
    values = np.ascontiguousarray(boundary, np.float32).reshape(shape)
    parts = run_threads(
        lambda part: _contacts(regions, values, *part),
        split_range(shape[0] * shape[1], worker_count(workers)) if labels.size else [],
        workers,
    )
    keys = np.concatenate([np.zeros(0, np.uint64), *(part[0] for part in parts)])
    pairs = np.stack([keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)
    faces = np.concatenate([np.zeros(0, np.int64), *(part[1] for part in parts)])
    total = np.concatenate([np.zeros(0, np.float64), *(part[2] for part in parts)])
    return _graph(pairs, faces, total)


def agglomerate(graph: RegionGraph, threshold: float) -> dict[int, int]:
    """Merge regions while the weakest mean boundary is below `threshold`: label -> label of the merged region.

    Weakest first, lower labels first among equals; the lowest label of a merged region names it. Labels that take part
    in no merge are left out. O(contacts * log contacts) with the usual number of contacts a region.
    """
    contacts: dict[int, dict[int, tuple[float, int]]] = {}
    heap: list[tuple[float, int, int]] = []
    for (a, b), faces, total in zip(graph.pairs.tolist(), graph.faces.tolist(), graph.total.tolist(), strict=True):
        contacts.setdefault(a, {})[b] = contacts.setdefault(b, {})[a] = (total, faces)
        if total / faces < threshold:
            heap.append((total / faces, a, b))
    heapify(heap)
    into: dict[int, int] = {}
    while heap:
        mean, a, b = heappop(heap)
        contact = contacts.get(a, {}).get(b)
        if contact is None or contact[0] / contact[1] != mean:
            continue  # one of the two was merged since, or their contact grew
        into[b] = a
        del contacts[a][b]
        lost = contacts.pop(b)
        del lost[a]
        for other, (total, faces) in lost.items():
            del contacts[other][b]
            before = contacts[a].get(other, (0.0, 0))
            joined = (before[0] + total, before[1] + faces)
            contacts[a][other] = contacts[other][a] = joined
            if joined[0] / joined[1] < threshold:
                heappush(heap, (joined[0] / joined[1], min(a, other), max(a, other)))
    for label in sorted(into):  # a name is lower than what it names: its own name is final when it is needed
        into[label] = into.get(into[label], into[label])
    return into


def merge_regions(
    labels: NDArray[Any], boundary: NDArray[Any], threshold: float, *, workers: int | None = None
) -> NDArray[np.uint32]:
    """Merge the regions of a label image whose mean boundary is below `threshold`; labels 1 ... n in raster order."""
    into = agglomerate(region_graph(labels, boundary, workers=workers), threshold)
    names = np.arange(int(labels.max(initial=0)) + 1, dtype=np.uint32)
    if into:
        names[list(into)] = list(into.values())
    return relabel(names[labels])


def _graph(pairs: NDArray[np.uint32], faces: NDArray[np.int64], total: NDArray[np.float64]) -> RegionGraph:
    """Add up rows of the same pair."""
    keys = pairs[:, 0].astype(np.uint64) << np.uint64(32) | pairs[:, 1].astype(np.uint64)
    unique, place = np.unique(keys, return_inverse=True)
    counts, sums = np.zeros(len(unique), np.int64), np.zeros(len(unique), np.float64)
    np.add.at(counts, place, faces)
    np.add.at(sums, place, total)
    split = np.stack([unique >> np.uint64(32), unique & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)
    return RegionGraph(split, counts, sums)


@njit(nogil=True, cache=True, error_model="numpy")
def _slot(keys: NDArray[np.uint64], key: np.uint64) -> np.int64:
    """Where `key` is or may be put in an open hash table; 0 is an empty slot, and no key."""
    mask = np.uint64(keys.size - 1)
    slot = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20) & mask
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@njit(nogil=True, cache=True, error_model="numpy")
def _contacts(
    labels: NDArray[np.uint32], values: NDArray[np.float32], begin: int, end: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.float64]]:
    """Faces between different labels, from each voxel of rows begin ... end to the next along z, y and x."""
    depth, height, width = labels.shape
    keys = np.zeros(4096, np.uint64)
    faces = np.zeros(4096, np.int64)
    total = np.zeros(4096, np.float64)
    used = 0
    for line in range(begin, end):
        z, y = line // height, line % height
        if 4 * (used + 3 * width) > 3 * keys.size:
            size = keys.size
            while 4 * (used + 3 * width) > 3 * size:
                size *= 2
            old_keys, old_faces, old_total = keys, faces, total
            keys, faces, total = np.zeros(size, np.uint64), np.zeros(size, np.int64), np.zeros(size, np.float64)
            for i in range(old_keys.size):
                if old_keys[i] != 0:
                    slot = _slot(keys, old_keys[i])
                    keys[slot], faces[slot], total[slot] = old_keys[i], old_faces[i], old_total[i]
        for axis in range(3):
            if (axis == 0 and z == depth - 1) or (axis == 1 and y == height - 1):
                continue
            here, mine = labels[z, y], values[z, y]
            there = labels[z + int(axis == 0), y + int(axis == 1)][int(axis == 2) :]
            theirs = values[z + int(axis == 0), y + int(axis == 1)][int(axis == 2) :]
            last, slot = np.uint64(0), np.int64(0)
            for x in range(there.size):
                a, b = here[x], there[x]
                if a == b or a == 0 or b == 0:
                    continue
                key = np.uint64(min(a, b)) << np.uint64(32) | np.uint64(max(a, b))
                if key != last:
                    slot = _slot(keys, key)
                    last = key
                    if keys[slot] == 0:
                        keys[slot] = key
                        used += 1
                faces[slot] += 1
                total[slot] += 0.5 * (np.float64(mine[x]) + np.float64(theirs[x]))
    full = keys != 0
    return keys[full], faces[full], total[full]
