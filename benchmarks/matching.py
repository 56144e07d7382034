"""Matching of 10,000 predicted against 10,000 true objects: `cellengine.metrics` beside `stardist.matching`.

    python benchmarks/matching.py [--side 4096] [--repeats 5]

The peer builds a dense table of all pairs: allow it 8 GB at 4096 px. It is timed once at 10,000 objects, being slow,
and at all ten thresholds in one call, as ours. Install it with `pip install --no-deps stardist csbdeep tqdm`: the
matching needs nothing else. Both must give the same numbers, or nothing is written: counts exactly, quality to 1e-6,
since the peer holds IoU in 32 bits.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from stardist.matching import matching

from cellengine.metrics import THRESHOLDS, evaluate_instances

CELL_PX = 40
RESULT = Path(__file__).parent / "results" / "matching.json"


def nuclei(side: int, seed: int) -> np.ndarray:
    """Discs of random radius and place, one in each cell of a grid, labelled in raster order; uint32."""
    random = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.uint32)
    y, x = np.mgrid[:CELL_PX, :CELL_PX]
    for number, (row, column) in enumerate(np.ndindex(side // CELL_PX, side // CELL_PX), 1):
        centre_y, centre_x = random.uniform(17, 23, 2)
        disc = (y - centre_y) ** 2 + (x - centre_x) ** 2 < random.uniform(12, 16) ** 2
        top, left = row * CELL_PX, column * CELL_PX
        labels[top : top + CELL_PX, left : left + CELL_PX][disc] = number
    return labels


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    """Wall time of each of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return times


def same_numbers(truth: np.ndarray, predicted: np.ndarray) -> bool:
    ours = evaluate_instances(truth, predicted).matches
    theirs = matching(truth, predicted, thresh=THRESHOLDS)
    return all(
        (a.tp, a.fp, a.fn, a.ap, a.f1) == (b.tp, b.fp, b.fn, b.accuracy, b.f1)
        and np.isclose(a.pq, b.panoptic_quality, rtol=1e-6)
        for a, b in zip(ours, theirs, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096, help="side of the picture in px; one object per 40 x 40 px")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of ours; the peer is timed once")
    options = parser.parse_args()
    truth, predicted = nuclei(options.side, 1), nuclei(options.side, 2)
    if not same_numbers(truth[:400, :400], predicted[:400, :400]):
        raise SystemExit("The two give different numbers: nothing was timed.")
    ours = seconds(lambda: evaluate_instances(truth, predicted), options.repeats)
    theirs = seconds(lambda: matching(truth, predicted, thresh=THRESHOLDS), 1)
    result = {
        "question": "matching at ten thresholds, cellengine.metrics against stardist.matching",
        "side_px": options.side,
        "objects": int(truth.max()),
        "ours_s": ours,
        "stardist_s": theirs,
        "ratio_of_medians": median(theirs) / median(ours),
        "same_numbers": same_numbers(truth, predicted),
        "versions": {name: version(name) for name in ("stardist", "numpy", "numba", "scipy")},
        "machine": platform.machine(),
    }
    print(json.dumps(result, indent=2))
    if result["same_numbers"]:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
