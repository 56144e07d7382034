"""Large pictures made of real ones, for benchmarks of the whole engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from cellengine.io.annotated import list_annotated, read_annotated

Array = np.ndarray[Any, Any]

DATA = Path(os.environ.get("CELLENGINE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def mosaic(side: int, seed: int = 0, kind: str = "fluorescence") -> Array:
    """A uint8 picture (side, side) of real nuclei: validation pictures of one kind laid side by side without gaps."""
    items = list_annotated(DATA / "dsb2018" / "split.csv", kind_column="kind")
    images = [read_annotated(i).image[0] for i in items if i.kind.startswith(kind)]
    images = [i for i in images if i.shape == (256, 256)]
    order = np.random.default_rng(seed)
    count = -(-side // 256)
    rows = [np.concatenate([images[order.integers(len(images))] for _ in range(count)], axis=1) for _ in range(count)]
    return np.ascontiguousarray(np.concatenate(rows, axis=0)[:side, :side])
