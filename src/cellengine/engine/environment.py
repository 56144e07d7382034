"""What a run ran on: versions, processor, memory. For run.json, benchmarks and `doctor`."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "numpy",
    "numba",
    "scipy",
    "scikit-image",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tifffile",
    "zarr",
    "connected-components-3d",
    "edt",
    "torch",
)


def versions() -> dict[str, str]:
    """Versions of cellengine, Python and the libraries that decide a result; missing ones are left out."""
    found = {"cellengine": metadata.version("cellengine"), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_bytes() -> int:
    """The most memory this process has held so far (resident)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
