"""What does the first call of a fresh install cost? Processor seconds of compilation, in a process with an empty cache.

    python benchmarks/ops_warmup.py [--runs 3]

Seeds, watershed of an uint8 relief, the distance decoder, normalisation and measurement of an uint16 channel, and the
functions on labels, once each on a small picture; then the same in a second process, from the cache on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable


def first_calls() -> dict[str, float]:
    """Processor seconds of each first call in this process; `total` counts from its start, with all imports."""
    import numpy as np

    from cellengine import ops

    spent = {"imports": time.process_time()}

    def step(name: str, function: Callable[[], object]) -> object:
        before = time.process_time()
        result = function()
        spent[name] = time.process_time() - before
        return result

    y, x = np.mgrid[:128, :128]
    distance = np.clip(6 - np.hypot(y % 16 - 8, x % 16 - 8), 0, None).astype(np.float32)
    foreground = (distance > 0).astype(np.float32)
    picture = np.random.default_rng(0).integers(0, 4096, (1, 128, 128), dtype=np.uint16)

    def normalize() -> None:
        statistics = ops.measure(lambda: [picture], 1, picture.dtype, (1, 99.8))
        scale = ops.range_scale((s.percentiles[1], s.percentiles[99.8]) for s in statistics)
        ops.normalize_into(picture, scale, np.empty(picture.shape, np.float32))

    step("normalize", normalize)
    seeds = step("seeds", lambda: ops.h_maxima_seeds(distance, 0.5, workers=1))
    step("watershed", lambda: ops.watershed((distance * 8).astype(np.uint8), seeds, distance > 0))
    labels = step("decode", lambda: ops.distance_watershed(foreground, distance, min_size_px=5, max_hole_px=5))
    step("measure", lambda: ops.measure_objects(labels, picture, workers=1))
    step(
        "labels",
        lambda: (
            ops.relabel(labels),
            ops.remove_small(labels, 2),
            ops.fill_holes(labels, 5),
            ops.grow(labels, 2),
            ops.outlines(labels, workers=1),
        ),
    )
    spent["total"] = time.process_time()
    return spent


def in_process(cache: str) -> dict[str, float]:
    """`first_calls` in a process of its own."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--inside"], env=environment, check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(first_calls()))
        return
    from _timing import write_result

    runs: dict[str, list[dict[str, float]]] = {"fresh_cpu_s": [], "cached_cpu_s": []}
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as cache:
            runs["fresh_cpu_s"].append(in_process(cache))
            runs["cached_cpu_s"].append(in_process(cache))
    medians = {
        kind: {name: statistics.median(run[name] for run in all_runs) for name in all_runs[0]}
        for kind, all_runs in runs.items()
    }
    write_result("ops_warmup", "What does the first call of a fresh install cost?", {**medians, "runs": options.runs})


if __name__ == "__main__":
    main()
