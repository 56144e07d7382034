"""Does memory stay within the plan however large the volume is, and does the time grow with the voxels?

Volumes of 16 bit that repeat one chunk of cells, each labelled by `cellengine infer` in a fresh process. A chunk is
stored once and linked from everywhere, so that 32 GB take a few megabytes of disk; the run does not know. The network
is a layer that answers voxel by voxel, in onnxruntime: what is measured is everything around it.

python benchmarks/memory.py [--sizes 2GB,8GB] [--max-ram 2GB] [--folder FOLDER]
python benchmarks/memory.py --sizes 32GB --folder FOLDER    # later: joins the others in the result

With `--folder` a call that is killed goes on where it was; the peak is the highest of all its processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import zarr
from onnx import helper, numpy_helper

from _timing import RESULTS, write_result
from _volumes import cells
from cellengine.cli.options import parse_bytes
from cellengine.engine.batch import Device, plan_files
from cellengine.engine.options import InferOptions
from cellengine.spec import INPUT_NAME, METADATA_KEY, DistanceWatershed, ModelSpec, Normalize, Output

CHUNK = (64, 128, 128)
STEP_S = 0.2
"""how often the memory of the run is looked at"""


def shape_of(size: int) -> tuple[int, ...]:
    """A volume of about `size` bytes whose sides are whole chunks, as deep as it is wide."""
    side = (size / 2) ** (1 / 3)
    return tuple(max(2, round(side / c)) * c for c in CHUNK)


def write_model(path: Path) -> Path:
    """Foreground and distance of a voxel follow from its own brightness: two convolutions of one voxel each."""
    spec = ModelSpec(
        name="brightness",
        task="instances",
        axes="ZYX",
        channels=("signal",),
        tile=(128,) * 3,
        divisor=(4,) * 3,
        receptive_field=(1,) * 3,
        halo=(4,) * 3,
        normalize=Normalize("percentile", 1.0, 99.9, clip=(0.0, 1.0)),
        outputs=(Output("foreground"), Output("distance")),
        decoder=DistanceWatershed(smoothing_px=1.0, h=0.05, min_size_px=5),
        classes=("cell",),
        object_size_px=14.0,
        activation_bytes=30.0,
    )
    numbers = {"foreground": (12.0, -3.0), "distance": (4.0, -2.0)}
    nodes, weights = [], []
    for name, (gain, shift) in numbers.items():
        weights.append(numpy_helper.from_array(np.full((1, 1, 1, 1, 1), gain, np.float32), f"{name}_gain"))
        weights.append(numpy_helper.from_array(np.array([shift], np.float32), f"{name}_shift"))
        nodes.append(helper.make_node("Conv", [INPUT_NAME, f"{name}_gain", f"{name}_shift"], [f"{name}_logit"]))
        nodes.append(helper.make_node("Sigmoid", [f"{name}_logit"], [name]))
    shape = ["batch", 1, "depth", "height", "width"]
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in (INPUT_NAME, *numbers)]
    graph = helper.make_graph(nodes, "brightness", values[:1], values[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, {METADATA_KEY: spec.to_json()})
    onnx.save(proto, path)
    return path


def write_volume(path: Path, shape: tuple[int, ...]) -> None:
    """An OME-Zarr 0.5 image whose chunks are links to one file."""
    root = zarr.open_group(path, mode="w", zarr_format=3)
    array = root.create_array("0", shape=shape, chunks=CHUNK, dtype="u2", dimension_names=["z", "y", "x"])
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    array[tuple(slice(0, c) for c in CHUNK)] = cells(CHUNK)
    first = path / "0/c/0/0/0"
    for at in product(*(range(n // c) for n, c in zip(shape, CHUNK, strict=True))):
        place = path / "0/c" / Path(*map(str, at))
        if place != first:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(first, place)


def prepare(folder: Path, shape: tuple[int, ...]) -> tuple[Path, Path]:
    """The volume and the model, unless an earlier call has made them."""
    volume, model = folder / "volume.ome.zarr", folder / "brightness.onnx"
    if not model.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_volume(volume, shape)
        write_model(model)
    return volume, model


def label(volume: Path, model: Path, output: Path, max_ram: str) -> dict[str, Any]:
    """Run the command in a process of its own, or go on with what an earlier call began."""
    how = ["--backend", "onnxruntime", "--precision", "fp32", "--device", "cpu", "--max-ram", max_ram]
    code = "import sys; from cellengine.cli import main; main(sys.argv[1:])"
    kept = output.with_name("peak.json")
    earlier = json.loads(kept.read_text()) if kept.exists() else {"seconds": 0.0, "peak": 0, "processes": 0}
    begun, peak = time.perf_counter(), int(earlier["peak"])
    child = psutil.Popen([sys.executable, "-c", code, "infer", str(volume), "-m", str(model), "-o", str(output), *how])
    while True:
        try:
            child.wait(STEP_S)
            break
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            highest = max(peak, high_water_mark(child.pid))
        seconds = earlier["seconds"] + time.perf_counter() - begun
        if highest > peak or seconds > 30:
            peak = highest
            partial = kept.with_suffix(".partial")
            partial.write_text(json.dumps({"seconds": seconds, "peak": peak, "processes": earlier["processes"] + 1}))
            partial.replace(kept)
    if child.returncode:
        raise SystemExit(f"infer ended with {child.returncode}")
    run = json.loads((output / "run.json").read_text())
    (record,) = run["files"].values()
    names = ("objects", "tiles", "tile", "blocks", "block", "overlap", "tiles_from_earlier_runs")
    return {
        "peak_rss_bytes": max(peak, run["peak_memory_bytes"]),
        "seconds": round(earlier["seconds"] + time.perf_counter() - begun, 1),
        "processes": earlier["processes"] + 1,
        "seconds_by_stage": record["seconds"],
        "output_bytes": sum(p.stat().st_size for p in output.rglob("*") if p.is_file()),
        **{name: record[name] for name in names},
    }


def high_water_mark(pid: int) -> int:
    """Most resident memory of a process so far, as Linux counts it; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def measure(size: str, max_ram: str, folder: Path) -> dict[str, Any]:
    """The row of one size."""
    shape = shape_of(parse_bytes("--sizes", size))
    voxels = int(np.prod(shape, dtype=np.int64))
    volume, model = prepare(folder, shape)
    options = InferOptions(max_ram=parse_bytes("--max-ram", max_ram))
    (plan,) = plan_files([str(volume)], str(model), folder / "plan", options, Device("cpu", "onnxruntime", "fp32"))
    found = label(volume, model, folder / "out", max_ram)
    shutil.rmtree(folder)
    row = {"size": size, "max_ram": max_ram, "shape": shape, "voxels": voxels, "planned_bytes": plan.memory_bytes}
    row |= found | {"seconds_per_gb": found["seconds"] / (2 * voxels / 1e9)}
    row["within_plan"] = found["peak_rss_bytes"] <= min(plan.memory_bytes, parse_bytes("--max-ram", max_ram))
    peak = row["peak_rss_bytes"] / 1e6
    print(f"{size}: {row['seconds_per_gb']:.0f} s a GB, peak {peak:.0f} MB, {found['objects']} cells", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="2GB,8GB")
    parser.add_argument("--max-ram", default="2GB")
    parser.add_argument("--folder", type=Path, help="where the volumes and outputs go for a while")
    arguments = parser.parse_args()
    base = arguments.folder or Path(tempfile.mkdtemp())
    earlier = RESULTS / "memory.json"
    rows = json.loads(earlier.read_text()).get("runs", []) if earlier.exists() else []
    for size in arguments.sizes.split(","):
        row = measure(size, arguments.max_ram, base / size)
        rows = [old for old in rows if old.get("max_ram") == row["max_ram"] and old["size"] != size] + [row]
        rows.sort(key=lambda one: int(one["voxels"]))
        first, last = rows[0], rows[-1]
        figures = {
            "growth": last["peak_rss_bytes"] / first["peak_rss_bytes"] - 1,
            "time_per_voxel_growth": last["seconds_per_gb"] / first["seconds_per_gb"] - 1,
            "within_plan": all(one["within_plan"] for one in rows),
            "runs": rows,
        }
        write_result("memory", __doc__.partition("\n")[0], figures)


if __name__ == "__main__":
    main()
