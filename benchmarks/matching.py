"""Matching of 10,000 predicted against 10,000 true objects: `cellengine.metrics` beside `stardist.matching`.

    python benchmarks/matching.py [--side 4096] [--runs 5]

The peer builds a dense table of all pairs: allow it 8 GB at 4096 px. It is timed once at 10,000 objects, being slow,
and at all ten thresholds in one call, as ours. Install it with `pip install --no-deps stardist csbdeep tqdm`: the
matching needs nothing else. Whether both give the same numbers is written with the times: counts exactly, quality to
1e-6, since the peer holds IoU in 32 bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from stardist.matching import matching

from _timing import paired, ratio, timed_once, write_result
from cellengine.metrics import THRESHOLDS, evaluate_instances
from cellengine.metrics.instances import Match

CELL_PX = 40


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


def same_numbers(ours: Sequence[Match], theirs: Sequence[Any]) -> bool:
    return all(
        (a.tp, a.fp, a.fn, a.ap, a.f1) == (b.tp, b.fp, b.fn, b.accuracy, b.f1)
        and np.isclose(a.pq, b.panoptic_quality, rtol=1e-6)
        for a, b in zip(ours, theirs, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096, help="side of the picture in px; one object per 40 x 40 px")
    parser.add_argument("--runs", type=int, default=5, help="timed calls of ours; the peer is timed once")
    options = parser.parse_args()
    truth, predicted = nuclei(options.side, 1), nuclei(options.side, 2)
    matching(truth[:400, :400], predicted[:400, :400], thresh=THRESHOLDS)  # compiled late, which is not to count
    times = paired({"ours": partial(evaluate_instances, truth, predicted)}, options.runs)
    times["stardist"], expected = timed_once(partial(matching, truth, predicted, thresh=THRESHOLDS))
    figures = {
        "side_px": options.side,
        "objects": int(truth.max()),
        "same_numbers": same_numbers(evaluate_instances(truth, predicted).matches, expected),
        "times_faster": ratio(times, "stardist", "ours"),
        **times,
    }
    write_result("matching", "How fast is matching at ten thresholds beside stardist.matching?", figures)


if __name__ == "__main__":
    main()
