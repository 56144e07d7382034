"""Slow implementations that a reader can check by eye. The tests compare the fast ones with them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from heapq import heappop, heappush

import numpy as np

from cellengine.ops.neighbours import neighbour_steps

Voxel = tuple[int, ...]


@cache
def steps_to_neighbours(connectivity: int, ndim: int) -> list[Voxel]:
    return [tuple(step[-ndim:]) for step in neighbour_steps(connectivity, ndim).tolist()]


def neighbours(voxel: Voxel, shape: Voxel, connectivity: int) -> Iterator[Voxel]:
    for step in steps_to_neighbours(connectivity, len(shape)):
        other = tuple(int(v) + s for v, s in zip(voxel, step, strict=True))
        if all(0 <= o < n for o, n in zip(other, shape, strict=True)):
            yield other


def heapq_watershed(
    image: np.ndarray, markers: np.ndarray, mask: np.ndarray | None, connectivity: int, line: bool = False
) -> np.ndarray:
    """Priority flood: lowest level first, then oldest; the level never falls; seeds enter in raster order."""
    mask = np.ones(image.shape, bool) if mask is None else mask.copy()
    labels = np.where(mask, markers, 0).astype(np.uint32)
    reached = labels.copy()  # the label that a queued voxel is to get
    heap: list[tuple[object, int, Voxel]] = []
    age = 0
    for seed in zip(*np.nonzero(labels), strict=True):
        heappush(heap, (image[seed], age := age + 1, seed))
    while heap:
        level, _, voxel = heappop(heap)
        around = [n for n in neighbours(voxel, image.shape, connectivity) if mask[n]]
        if line and any(labels[n] not in (0, reached[voxel]) for n in around):
            mask[voxel] = False  # a line: nobody sees it any more (a seed in it keeps its label)
        else:
            labels[voxel] = reached[voxel]
        for n in around:
            if not reached[n]:
                reached[n] = reached[voxel]
                heappush(heap, (max(image[n], level), age := age + 1, n))
    return labels
