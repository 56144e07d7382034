"""Does memory stay within the plan however large the volume is, and does the time grow with the voxels?

Volumes of 16 bit that repeat one chunk of cells, each labelled by `cellengine infer` in a fresh process. A chunk is
stored once and linked from everywhere, so that 32 GB take a few megabytes of disk; the run does not know.

python benchmarks/memory.py [--sizes 2GB,8GB,32GB] [--max-ram 2GB] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from _timing import write_result

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the model without training is that of the tests

from tests.engine.blobs import write_blob_model  # noqa: E402

CHUNK = (64, 128, 128)
CELL_PX = 32
"""one cell in a cube of this side"""
UNITS = {"MB": 10**6, "GB": 10**9}


def size_in_bytes(text: str) -> int:
    return int(float(text[:-2]) * UNITS[text[-2:]])


def shape_of(size: int) -> tuple[int, ...]:
    """A volume of about `size` bytes whose sides are whole chunks, as deep as it is wide."""
    side = (size / 2) ** (1 / 3)
    return tuple(max(2, round(side / c)) * c for c in CHUNK)


def cells() -> np.ndarray[Any, np.dtype[np.uint16]]:
    """One chunk: balls of 5 to 9 px on a grid, each as bright as it likes."""
    rng = np.random.default_rng(0)
    grid = np.indices(CHUNK)
    image = np.full(CHUNK, 100.0)
    for corner in product(*(range(0, n, CELL_PX) for n in CHUNK)):
        centre = np.array(corner) + rng.uniform(11, CELL_PX - 11, 3)
        away = np.sqrt(((grid - centre.reshape(3, 1, 1, 1)) ** 2).sum(0))
        image[away < rng.uniform(5, 9)] = rng.uniform(600, 1500)
    return image.astype(np.uint16)


def write_volume(path: Path, shape: tuple[int, ...]) -> None:
    """An OME-Zarr 0.5 image whose chunks are links to one file."""
    root = zarr.open_group(path, mode="w", zarr_format=3)
    array = root.create_array("0", shape=shape, chunks=CHUNK, dtype="u2", dimension_names=["z", "y", "x"])
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    array[tuple(slice(0, c) for c in CHUNK)] = cells()
    first = path / "0/c/0/0/0"
    for at in product(*(range(n // c) for n, c in zip(shape, CHUNK, strict=True))):
        place = path / "0/c" / Path(*map(str, at))
        if place != first:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(first, place)


def label(volume: Path, model: Path, output: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the command in a process of its own; its peak memory is what the system says it was."""
    how = ["--backend", "onnxruntime", "--precision", "fp32", "--max-ram", arguments.max_ram]
    code = "import sys; from cellengine.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "infer", str(volume), "-m", str(model), "-o", str(output), *how]
    begun = time.perf_counter()
    child = os.posix_spawn(sys.executable, command, os.environ)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"infer ended with {os.waitstatus_to_exitcode(status)}")
    run = json.loads((output / "run.json").read_text())
    (record,) = run["files"].values()
    written = sum(p.stat().st_size for p in output.rglob("*") if p.is_file())
    kept = {name: record[name] for name in ("objects", "tiles", "tile", "blocks", "block", "overlap")}
    return {
        "peak_rss_bytes": usage.ru_maxrss * 1024,
        "seconds": round(time.perf_counter() - begun, 1),
        "seconds_by_stage": record["seconds"],
        "output_bytes": written,
        **kept,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="2GB,8GB,32GB")
    parser.add_argument("--max-ram", default="2GB")
    parser.add_argument("--folder", type=Path, help="where the volumes and outputs go for a while")
    arguments = parser.parse_args()
    limit = size_in_bytes(arguments.max_ram)
    figures: dict[str, Any] = {"max_ram_bytes": limit, "runs": []}
    for size in arguments.sizes.split(","):
        folder = Path(tempfile.mkdtemp(dir=arguments.folder))
        shape = shape_of(size_in_bytes(size))
        voxels = int(np.prod(shape, dtype=np.int64))
        model = write_blob_model(
            folder / "blobs.onnx", "ZYX", tile=(128,) * 3, object_size_px=24.0, activation_bytes=30.0
        )
        write_volume(folder / "volume.ome.zarr", shape)
        found = label(folder / "volume.ome.zarr", model, folder / "out", arguments)
        shutil.rmtree(folder)
        run = {"size": size, "shape": shape, "voxels": voxels, **found}
        run["voxels_per_s"] = round(voxels / found["seconds"])
        run["within_plan"] = found["peak_rss_bytes"] <= limit
        figures["runs"].append(run)
    first, last = figures["runs"][0], figures["runs"][-1]
    figures["growth"] = last["peak_rss_bytes"] / first["peak_rss_bytes"] - 1
    figures["time_per_voxel_growth"] = first["voxels_per_s"] / last["voxels_per_s"] - 1
    write_result("memory", __doc__.partition("\n")[0], figures)


if __name__ == "__main__":
    main()
