"""What every benchmark shares: paired runs, medians and ratios, one JSON with machine and versions."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "numpy",
    "scipy",
    "scikit-image",
    "numba",
    "torch",
    "monai",
    "onnxruntime-gpu",
    "openvino",
    "stardist",
    "tifffile",
)


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def paired(functions: Mapping[str, Callable[[], object]], runs: int, warm_up: int = 1) -> dict[str, dict[str, Any]]:
    """Times of several functions called in turn (A B A B ...), so that a machine that drifts drifts for all.

    Each gets `median_s`, `min_s`, `max_s` and `runs_s`.
    """
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warm_up + runs):
        for name, function in functions.items():
            elapsed = seconds(function)
            if turn >= warm_up:
                taken[name].append(elapsed)
    return {
        name: {"median_s": statistics.median(t), "min_s": min(t), "max_s": max(t), "runs_s": t}
        for name, t in taken.items()
    }


def timed_once(function: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    """Time and answer of a peer too slow to be called again: no warm-up, one run; times as `paired` gives them."""
    kept: list[Any] = []
    taken = seconds(lambda: kept.append(function()))
    return {"median_s": taken, "min_s": taken, "max_s": taken, "runs_s": [taken]}, kept[0]


def ratio(times: Mapping[str, Mapping[str, Any]], slow: str, fast: str) -> float:
    """How many times faster `fast` is: the median of the ratios of the paired runs, of a peer timed once its time."""
    slow_runs, fast_runs = times[slow]["runs_s"], times[fast]["runs_s"]
    if len(slow_runs) == 1:
        slow_runs = slow_runs * len(fast_runs)
    return statistics.median(a / b for a, b in zip(slow_runs, fast_runs, strict=True))


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def versions() -> dict[str, str]:
    """Versions of the libraries that matter, as installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_result(name: str, question: str, figures: Mapping[str, Any]) -> Path:
    """`results/<name>.json`, whole or not at all: the question, the figures, the machine, the versions."""
    machine = {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()}
    record = {
        "question": question,
        "date": time.strftime("%Y-%m-%d"),
        **figures,
        "machine": machine,
        "versions": versions(),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    print(json.dumps({k: v for k, v in record.items() if k not in ("machine", "versions")}, indent=1))
    return path
