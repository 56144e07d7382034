"""The models that come with the package: one ONNX file and one card (.md) each. Files only; nothing is loaded here."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def bundled() -> dict[str, Path]:
    """Name -> file of every bundled model, by name.

    `nuclei.int8.onnx` and the like are forms of `nuclei`, found through it and not listed.
    """
    return {path.stem: path for path in sorted(FOLDER.glob("*.onnx")) if "." not in path.stem}
