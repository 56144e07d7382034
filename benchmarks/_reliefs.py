"""Synthetic pictures for the array benchmarks, the same on every machine: nuclei, rough reliefs, tissue."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def relief(shape: tuple[int, ...], sigma: float = 4.0) -> np.ndarray:
    """Smoothed noise from 0 to 1, float32."""
    image = ndimage.gaussian_filter(np.random.default_rng(0).random(shape, np.float32), sigma)
    image -= image.min()
    return image / image.max()


def seeds_of_distinct_levels(image: np.ndarray, count: int) -> np.ndarray:
    """Single-voxel seeds on `count` voxels at most, no two of one value: the case in which the peer has a rule."""
    rng = np.random.default_rng(1)
    places = rng.choice(image.size, min(4 * count, image.size), replace=False)
    _, first = np.unique(image.ravel()[places], return_index=True)
    chosen = np.sort(places[first][:count])
    markers = np.zeros(image.shape, np.int32)
    markers.flat[chosen] = np.arange(1, len(chosen) + 1)
    return markers


def spread_seeds(shape: tuple[int, ...], voxels_each: int) -> np.ndarray:
    """Single-voxel seeds all over, one in so many voxels."""
    size = int(np.prod(shape))
    markers = np.zeros(shape, np.int32)
    places = np.random.default_rng(2).choice(size, max(size // voxels_each, 1), replace=False)
    markers.flat[places] = np.arange(1, len(places) + 1)
    return markers


def nuclei(side: int, spacing: int = 41) -> tuple[np.ndarray, np.ndarray]:
    """Foreground and distance as a network gives them: an ellipse a cell of a grid, many touching; float32, 0 ... 1."""
    rng = np.random.default_rng(3)
    foreground = np.zeros((side, side), np.float32)
    distance = np.zeros((side, side), np.float32)
    y, x = np.mgrid[-25:26, -25:26]
    for row, column in np.ndindex(side // spacing, side // spacing):
        cy, cx = (int((k + 0.5) * spacing) + int(rng.integers(-9, 10)) for k in (row, column))
        a, b = rng.uniform(11, 19, 2)
        angle = rng.uniform(0, np.pi)
        u, v = (x * np.cos(angle) + y * np.sin(angle)) / a, (y * np.cos(angle) - x * np.sin(angle)) / b
        radius = np.hypot(u, v).astype(np.float32)
        y0, x0, y1, x1 = max(cy - 25, 0), max(cx - 25, 0), min(cy + 26, side), min(cx + 26, side)
        inside = (slice(y0 - cy + 25, y1 - cy + 25), slice(x0 - cx + 25, x1 - cx + 25))
        there = (slice(y0, y1), slice(x0, x1))
        distance[there] = np.maximum(distance[there], np.clip(1 - radius[inside], 0, 1))
        foreground[there] = np.maximum(foreground[there], radius[inside] < 1)
    noisy = distance + rng.normal(0, 0.03, distance.shape).astype(np.float32) * (distance > 0)
    return ndimage.gaussian_filter(foreground, 1), ndimage.gaussian_filter(np.clip(noisy, 0, 1), 0.7)


def tissue(side: int, cell: int = 20) -> np.ndarray:
    """Boundary scores of confluent tissue: walls halfway between random centres, blurred; float32, side^3."""
    rng = np.random.default_rng(4)
    centres = np.ones((side,) * 3, bool)
    centres.flat[rng.choice(side**3, max(side**3 // cell**3, 2), replace=False)] = False
    index = ndimage.distance_transform_edt(centres, return_distances=False, return_indices=True)
    owner = np.ravel_multi_index(tuple(index), centres.shape)
    walls = np.zeros(centres.shape, np.float32)
    for axis in range(3):
        differ = np.diff(owner, axis=axis) != 0
        walls[tuple(slice(0, -1) if a == axis else slice(None) for a in range(3))][differ] = 1
        walls[tuple(slice(1, None) if a == axis else slice(None) for a in range(3))][differ] = 1
    return np.clip(ndimage.gaussian_filter(walls, 0.8) + rng.normal(0, 0.03, walls.shape), 0, 1).astype(np.float32)
