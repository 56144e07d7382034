"""Synthetic pictures with known cells, for tests that need no data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

Array = np.ndarray[Any, Any]


def draw_cells(
    shape: tuple[int, int], count: int, seed: int, radius_px: tuple[float, float] = (4, 9)
) -> tuple[Array, Array]:
    """A uint8 picture (Y, X) of bright round cells that do not overlap, and its labels (uint16)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.full(shape, 20.0)
    labels = np.zeros(shape, np.uint16)
    for _ in range(count):
        radius = random.uniform(*radius_px)
        cy, cx = random.uniform(0, shape[0]), random.uniform(0, shape[1])
        cell = np.hypot(y - cy, x - cx) <= radius
        if not cell.any() or labels[cell].any():
            continue
        labels[cell] = labels.max() + 1
        image[cell] = random.uniform(90, 220)
    return (image + random.normal(0, 4, shape)).clip(0, 255).astype(np.uint8), labels


def write_annotated(folder: Path, pictures: int, shape: tuple[int, int] = (64, 64), cells: int = 8) -> Path:
    """A folder with images/ and labels/ as `cellengine train` takes it."""
    for sub in ("images", "labels"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for i in range(pictures):
        image, labels = draw_cells(shape, cells, seed=i)
        tifffile.imwrite(folder / "images" / f"cells_{i}.tif", image)
        tifffile.imwrite(folder / "labels" / f"cells_{i}.tif", labels)
    return folder


def draw_volume(shape: tuple[int, int, int], count: int, seed: int) -> Array:
    """uint16 (z, y, x), bright balls of 3 to 6 voxels that keep apart."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape)
    image = np.full(shape, 100.0)
    for _ in range(count):
        radius, centre = rng.uniform(3, 6), rng.uniform(0, shape).reshape(-1, 1, 1, 1)
        away = np.sqrt(((grid - centre) ** 2).sum(0))
        if (image[away < radius + 4] == 100).all():
            image[away < radius] = rng.uniform(600, 1500)
    return (image + rng.normal(0, 5, shape)).clip(0, 65535).astype(np.uint16)
