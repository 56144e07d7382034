"""The walls of the house where import-linter does not look: what a running inference loads, and who loads what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import cellengine
from tests.engine.conftest import write_tiny_model
from tests.synthetic import draw_cells

SOURCE = Path(cellengine.__file__).parent

OPTIONAL = {
    "bioio": ("io/bio.py",),
    "dask": ("engine/cluster/connect.py",),
    "distributed": ("engine/cluster/connect.py",),
    "matplotlib": ("train/report.py", "train/sweep.py"),
    "monai": (),
    "pynvml": ("engine/nvml.py",),
    "napari": ("cli/view.py",),
    "onnxruntime": ("engine/backends/onnxruntime.py", "export/quantise.py"),
    "openvino": ("engine/backends/openvino.py", "engine/backends/exact.py"),
    "tensorboard": ("train/",),
    "tensorrt": ("engine/backends/tensorrt.py",),
    "starlette": ("watch/server.py", "watch/guard.py"),
    "torch": ("models/", "train/", "export/"),
    "uvicorn": ("watch/server.py",),
    "watchfiles": ("watch/scout.py",),
}
"""package that may be missing -> the files or folders that may import it"""


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", OPTIONAL)
def test_optional_packages_are_imported_only_where_they_belong(package: str) -> None:
    users = [p.relative_to(SOURCE).as_posix() for p in sorted(SOURCE.rglob("*.py")) if package in imported(p)]
    assert [user for user in users if not user.startswith(OPTIONAL[package])] == []


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_real_inference_loads_no_torch(tmp_path: Path, backend: str) -> None:
    write_tiny_model(tmp_path / "tiny.onnx")
    Image.fromarray(draw_cells((64, 64), 12, 0)[0]).save(tmp_path / "cells.png")
    program = (
        "import sys\n"
        "from cellengine.cli import main\n"
        f"how = ['--backend', {backend!r}, '--precision', 'fp32']\n"
        "try: main(['infer', 'cells.png', '-m', 'tiny.onnx', '-o', 'out', *how])\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        f"assert {backend!r} in sys.modules\n"
        "sys.exit(', '.join({'torch', 'monai', 'matplotlib', 'pandas', 'dask', 'zarr'} & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "cells.labels.tif").is_file()


def test_the_package_itself_loads_nothing_heavy_until_it_is_used() -> None:
    program = (
        "import sys, cellengine\n"
        "assert not {'numpy', 'numba', 'onnxruntime', 'openvino', 'torch'} & set(sys.modules)\n"
        "assert callable(cellengine.infer) and callable(cellengine.load_model)\n"
        "assert cellengine.ops.watershed and cellengine.io.open_source and cellengine.metrics\n"
        "sys.exit('torch' if 'torch' in sys.modules else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
