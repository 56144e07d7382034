"""The process that measures one combination: `python -m cellengine.engine.benchmark.worker`, a Case in, a result out.

Fresh for every combination, so that neither memory nor caches of another one count.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellengine.engine.backends import BACKENDS
from cellengine.engine.benchmark.cases import BenchResult, Case
from cellengine.engine.environment import peak_memory_bytes, versions
from cellengine.engine.golden import golden_input, golden_tile
from cellengine.engine.model_file import read_model_file
from cellengine.engine.nvml import DeviceWatch
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import plan_halo
from cellengine.engine.session import Halo, Session, has_core
from cellengine.errors import CellengineError
from cellengine.records import from_plain, to_plain
from cellengine.spec import ModelSpec

LEAST_RUNS, MOST_RUNS = 5, 200
SECONDS = 5.0
"""spent on single batches, and again on several callers at once, once there are enough of them"""
WATCH_S = 0.02

Batch = NDArray[np.float32]


def measure(case: Case) -> BenchResult:
    """Open the model, run it, and say how long everything took. A failure is the reason of a skipped result."""
    blank = BenchResult(
        case.model, case.backend, case.device, case.precision, case.tile, case.batch, parity=case.parity
    )
    try:
        return _measure(case, blank)
    except CellengineError as error:
        return replace(blank, skipped=str(error))


def _measure(case: Case, blank: BenchResult) -> BenchResult:
    file = read_model_file(Path(case.path))
    batch = _batch(file.spec, case)
    watch = _Watch(case.device)
    begun = time.perf_counter()
    with BACKENDS[case.backend]().open(file, case.device, case.precision, None) as session:
        load_s = time.perf_counter() - begun
        first = _time(session, batch)
        seconds = _repeat(session, batch)
        rate = _throughput(session, batch, min(seconds))
    held, dropped = watch.stop()
    usual = sorted(seconds)[len(seconds) // 2]
    return replace(
        blank,
        load_s=load_s,
        build_s=max(0.0, first - usual),
        seconds=tuple(seconds),
        voxels_per_s=rate,
        peak_rss_bytes=peak_memory_bytes(),
        peak_device_bytes=dropped if held is None else held,
        free_device_drop_bytes=dropped,
        versions=versions(),
    )


def _batch(spec: ModelSpec, case: Case) -> Batch:
    """Pictures of the golden test side by side; made whole they would take more memory than some networks."""
    channels = len(spec.channels)
    return np.resize(golden_input(channels, golden_tile(spec.divisor)), (case.batch, channels, *case.tile))


def _halo(session: Session, batch: Batch) -> Halo | None:
    """The halo that a run has, where the tile has room for it: what only the halo needs is not computed."""
    spec = session.spec
    halo = plan_halo(spec, InferOptions())
    return halo if spec.answers_voxels and has_core(halo, batch.shape[2:]) else None


def _time(session: Session, batch: Batch) -> float:
    begun = time.perf_counter()
    session.run(batch, _halo(session, batch))
    return time.perf_counter() - begun


def _repeat(session: Session, batch: Batch) -> list[float]:
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) < LEAST_RUNS or (time.perf_counter() - begun < SECONDS and len(taken) < MOST_RUNS):
        taken.append(_time(session, batch))
    return taken


def _throughput(session: Session, batch: Batch, fastest: float) -> float:
    """Voxels a second with as many callers as are useful."""
    count = max(2 * session.concurrency, min(MOST_RUNS, int(SECONDS / max(fastest, 1e-6))))
    halo = _halo(session, batch)
    begun = time.perf_counter()
    with ThreadPoolExecutor(session.concurrency) as pool:
        for _ in pool.map(lambda _: session.run(batch, halo) and None, range(count)):
            pass
    return count * len(batch) * prod(batch.shape[2:]) / (time.perf_counter() - begun)


class _Watch:
    """Looks at the memory of a GPU every 20 ms; on a CPU it does nothing."""

    def __init__(self, device: str) -> None:
        self._held: int | None = None
        self._least: int | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        if device.startswith("cuda"):
            self._watch = DeviceWatch(int(device.partition(":")[2] or 0))
            self._before = self._watch.free_bytes()
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(WATCH_S):
            held, free = self._watch.held_bytes(), self._watch.free_bytes()
            if held is not None:
                self._held = max(self._held or 0, held)
            if free is not None:
                self._least = min(free, free if self._least is None else self._least)

    def stop(self) -> tuple[int | None, int | None]:
        """Most bytes held, and the fall of the free ones; None where they cannot be known."""
        if self._thread is None:
            return None, None
        self._done.set()
        self._thread.join()
        known = self._before is not None and self._least is not None
        return self._held, (self._before or 0) - (self._least or 0) if known else None


def main() -> None:
    """Read a Case from standard input, write the BenchResult to standard output, both as JSON."""
    case = from_plain(Case, json.loads(sys.stdin.read()))
    sys.stdout.write(json.dumps(to_plain(measure(case))) + "\n")


if __name__ == "__main__":
    main()
