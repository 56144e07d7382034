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


def slow_h_maxima(image: np.ndarray, h: float, mask: np.ndarray, connectivity: int) -> tuple[np.ndarray, list[int]]:
    """By the definition: a voxel p is marked when, from it, no higher voxel is reached through values > f(p) - h.

    Also one voxel a dome: the first, in raster order, of each set of marked voxels that reach one another that way.
    """
    marked = np.zeros(image.shape, bool)
    domes: list[int] = []
    taken = np.zeros(image.shape, bool)
    for voxel in zip(*np.nonzero(mask), strict=True):
        top = image[voxel]
        reached, todo = {voxel}, [voxel]
        while todo:
            for n in neighbours(todo.pop(), image.shape, connectivity):
                # on a plateau, h = 0 asks for nothing: neighbours of equal height are one place all the same
                if mask[n] and n not in reached and (image[n] > top - h or image[n] == top):
                    reached.add(n)
                    todo.append(n)
        if all(image[n] <= top for n in reached):
            marked[voxel] = True
            if not taken[voxel]:
                domes.append(int(np.ravel_multi_index(voxel, image.shape)))
                for n in reached:
                    taken[n] |= image[n] == top
    return marked, domes
