"""Large pictures made of real ones, for benchmarks of the whole engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from cellengine.geometry import Region
from cellengine.io import MemorySource, open_source
from cellengine.io.annotated import list_annotated, read_annotated

Array = np.ndarray[Any, Any]

DATA = Path(os.environ.get("CELLENGINE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def mosaic(side: int, seed: int = 0, kind: str = "fluorescence") -> Array:
    """A uint8 picture (side, side) of real nuclei: pictures of one kind laid side by side without gaps.

    Taken are those of 256 x 256, and of a kind that has none the corners of larger ones.
    """
    items = list_annotated(DATA / "dsb2018" / "split.csv", kind_column="kind")
    images = [read_annotated(i).image[0] for i in items if i.kind.startswith(kind)]
    images = [i for i in images if i.shape == (256, 256)] or [i[:256, :256] for i in images if min(i.shape) >= 256]
    order = np.random.default_rng(seed)
    count = -(-side // 256)
    rows = [np.concatenate([images[order.integers(len(images))] for _ in range(count)], axis=1) for _ in range(count)]
    return np.ascontiguousarray(np.concatenate(rows, axis=0)[:side, :side])


def volume_mosaic(across: int = 4, side: int = 112) -> MemorySource:
    """Real embryos, H2B, uint16 (51, `across` * `side`, ...), side by side without gaps, with their voxel size."""
    files = sorted((DATA / "volumes" / "embryo").glob("*_raw.ome.tif"))[: across**2]
    crops = []
    for file in files:
        with open_source(file) as source:
            size = source.voxel_size_um
            start = tuple((n - side) // 2 for n in source.shape[1:])
            stop = tuple(a + side for a in start)
            crops.append(source.read(Region((0, *start), (source.shape[0], *stop))))
    depth = min(len(crop) for crop in crops)
    rows = [np.concatenate([crop[:depth] for crop in crops[i : i + across]], 2) for i in range(0, len(crops), across)]
    return MemorySource(np.concatenate(rows, 1), "ZYX", voxel_size_um=size)
