"""What a run ran on: versions and peak memory, for run.json and `doctor`."""

from __future__ import annotations

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
IRRELEVANT = ("python", "torch", "onnx")
"""versions that do not decide what `infer` finds"""


def versions() -> dict[str, str]:
    """Versions of cellengine, Python and the libraries that decide a result; missing ones are left out."""
    found = {"cellengine": metadata.version("cellengine"), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def deciding_versions() -> dict[str, str]:
    """The versions that decide what `infer` finds: those of another run or machine must be the same."""
    return {name: version for name, version in versions().items() if name not in IRRELEVANT}


def peak_memory_bytes() -> int:
    """The most memory this process has held so far (resident)."""
    status = Path("/proc/self/status")
    if status.is_file():  # VmHWM; what getrusage gives begins, after a fork and exec, with the parent's
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
