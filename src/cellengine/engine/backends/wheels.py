"""onnxruntime comes in two packages that write into the same folder: what is installed, as pip's records say."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed(package: str) -> str | None:
    """Version of an installed package; None when it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def both_wheels() -> str:
    """What is wrong when both packages are installed, and what mends it; empty when all is well."""
    plain, gpu = installed("onnxruntime"), installed("onnxruntime-gpu")
    if not (plain and gpu):
        return ""
    return (
        f"onnxruntime {plain} and onnxruntime-gpu {gpu} are both installed and overwrite each other, so that CUDA "
        "vanishes: run `pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install 'onnxruntime-gpu[cuda,cudnn]'`"
    )
