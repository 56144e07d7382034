"""Measures cases one by one, each in a fresh process; compares with an earlier run; picks what fits a budget."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cellengine.engine.benchmark.cases import BenchResult, Case
from cellengine.errors import InputError, UsageError
from cellengine.records import RecordError, from_plain, to_plain

WORKER = "cellengine.engine.benchmark.worker"
LONGEST_S = 1800
"""after which a combination counts as stuck"""
SLOWER, LARGER = 0.9, 1.1
"""a combination has got worse when its speed falls below, or its memory rises above, this share of the earlier"""


def measure_case(case: Case) -> BenchResult:
    """The result of one combination; a process that dies (a crash, a killer of processes) is a reason too."""
    blank = BenchResult(
        case.model, case.backend, case.device, case.precision, case.tile, case.batch, parity=case.parity
    )
    command = [sys.executable, "-m", WORKER]
    try:
        done = subprocess.run(
            command, input=json.dumps(to_plain(case)), capture_output=True, text=True, timeout=LONGEST_S, check=False
        )
    except subprocess.TimeoutExpired:
        return replace(blank, skipped=f"gave no answer for {LONGEST_S} s")
    try:
        return from_plain(BenchResult, json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, RecordError):
        said = done.stderr.strip().splitlines()
        return replace(blank, skipped=f"its process ended with {done.returncode} ({said[-1] if said else 'silently'})")


def measure_all(cases: Sequence[Case], tell: Callable[[BenchResult], None]) -> list[BenchResult]:
    """Every case by itself, then every combination on all GPUs at once where there are several."""
    found = []
    for case in cases:
        found.append(measure_case(case))
        tell(found[-1])
    for group in _on_every_gpu(cases):
        found.append(measure_together(group, found))
        tell(found[-1])
    return found


def measure_together(cases: Sequence[Case], alone: Sequence[BenchResult]) -> BenchResult:
    """One combination on several devices at the same time: the sum of their speeds, and what it is of the ideal."""
    with ThreadPoolExecutor(len(cases)) as pool:
        results = list(pool.map(measure_case, cases))
    first = cases[0]
    device = ",".join(case.device for case in cases)
    total = BenchResult(first.model, first.backend, device, first.precision, first.tile, first.batch)
    if problem := next((r.skipped for r in results if r.skipped), ""):
        return replace(total, skipped=problem)
    speed = sum(r.voxels_per_s or 0.0 for r in results)
    devices = {case.device for case in cases}
    single = [
        r.voxels_per_s or 0.0 for r in alone if r.device in devices and replace(r, device="").key == _anywhere(first)
    ]
    scaling = f"{speed / sum(single):.0%} of {len(cases)} alone" if single and len(single) == len(cases) else ""
    return replace(
        total,
        seconds=tuple(s for r in results for s in r.seconds),
        voxels_per_s=speed,
        peak_rss_bytes=sum(r.peak_rss_bytes or 0 for r in results),
        peak_device_bytes=max((r.peak_device_bytes for r in results if r.peak_device_bytes is not None), default=None),
        parity="; ".join(part for part in (first.parity, scaling) if part),
        versions=results[0].versions,
    )


def _anywhere(case: Case) -> tuple[Any, ...]:
    return case.model, case.backend, "", case.precision, case.tile, case.batch


def _on_every_gpu(cases: Sequence[Case]) -> list[list[Case]]:
    groups: dict[tuple[Any, ...], list[Case]] = {}
    for case in cases:
        if case.device.startswith("cuda"):
            groups.setdefault(_anywhere(case), []).append(case)
    return [group for group in groups.values() if len(group) > 1]


@dataclass(frozen=True, slots=True)
class Change:
    """One combination now and before."""

    now: BenchResult
    speed: float
    """voxels/s now over before"""
    memory: float
    """peak memory now over before"""

    @property
    def worse(self) -> bool:
        """Whether it has got slower or larger by more than measuring varies."""
        return self.speed < SLOWER or self.memory > LARGER


def read_results(path: Path) -> list[BenchResult]:
    """The results in a bench.json. Raises UsageError when it does not exist, InputError when it is something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return [from_plain(BenchResult, item) for item in data["results"]]
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; expected the bench.json of an earlier run.") from error
    except (OSError, ValueError, KeyError, TypeError, RecordError) as error:
        raise InputError(f"{path} is no bench.json of `cellengine bench` ({error}).") from error


def compare(now: Sequence[BenchResult], before: Sequence[BenchResult]) -> list[Change]:
    """Combinations that were measured both times."""
    old = {result.key: result for result in before if result.voxels_per_s}
    changes = []
    for result in now:
        if result.voxels_per_s and (then := old.get(result.key)) is not None and then.voxels_per_s:
            memory = _memory(result) / max(1, _memory(then))
            changes.append(Change(result, result.voxels_per_s / then.voxels_per_s, memory))
    return changes


def recommend(results: Sequence[BenchResult], budget_bytes: int) -> BenchResult | None:
    """The fastest combination whose memory (of the GPU, or of the process on a CPU) fits; None when none does."""
    fitting = [r for r in results if r.voxels_per_s and _memory(r) <= budget_bytes]
    return max(fitting, key=lambda r: r.voxels_per_s or 0.0, default=None)


def _memory(result: BenchResult) -> int:
    """What is scarce: memory of the GPU where there is one and it is known, else that of the process."""
    held = result.peak_device_bytes if result.device.startswith("cuda") else None
    return held or result.peak_rss_bytes or 0
