"""Does the model of report B take a stack as the microscope wrote it, 300 x 1024 x 1024 voxels, within 6 GB?

The report's network ran on stacks that had been made smaller by 4, 8 and 8: "doubling the resolution did not fit". Here
every voxel goes through the network. The stack is the validation gland, mirrored until it fills the shape, since no
whole stack is public; a process of its own labels it, and the most memory that it held is what Linux counts.

python benchmarks/whole_stack.py [--max-ram 6GB] [--shape 300,1024,1024] [--folder FOLDER]

With `--folder` a call that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from _pictures import DATA
from _timing import write_result
from cellengine.cli.options import parse_bytes
from cellengine.engine.batch import Device, plan_files
from cellengine.engine.options import InferOptions
from cellengine.io.annotated import list_annotated, read_annotated

COMMAND = (sys.executable, "-c", "import sys; from cellengine.cli import main; main(sys.argv[1:])", "infer")


def gland() -> np.ndarray[Any, Any]:
    """The volume that the model did not train on."""
    listed = list_annotated(DATA / "volumes" / "index.csv", where={"subset": "gland"}, axes="ZYX")
    (item,) = (item for item in listed if item.split == "val")
    return read_annotated(item).image[0]


def write_stack(path: Path, shape: tuple[int, ...]) -> None:
    """The gland beside its mirror images, written plane by plane."""
    volume = gland()
    places = []
    for size, n in zip(shape, volume.shape, strict=True):
        at = np.arange(size) % (2 * n)
        places.append(np.where(at < n, at, 2 * n - 1 - at))
    partial = path.with_suffix(".partial")
    with h5py.File(partial, "w") as file:
        stored = file.create_dataset("raw", shape, volume.dtype, chunks=(16, 128, 128))
        for z in range(0, shape[0], 16):
            stored[z : z + 16] = volume[np.ix_(places[0][z : z + 16], places[1], places[2])]
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--max-ram", default="6GB")
    parser.add_argument("--shape", default="300,1024,1024")
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    stack, output = folder / "stack.h5", folder / "out"
    shape = tuple(int(n) for n in given.shape.split(","))
    if not stack.exists():
        write_stack(stack, shape)
    most = parse_bytes("--max-ram", given.max_ram)
    options = InferOptions(max_ram=most, axes="ZYX", resample=False)
    begun = time.perf_counter()
    how = ["-m", "cells3d", "--axes", "ZYX", "--no-resample", "--max-ram", given.max_ram]
    subprocess.run([*COMMAND, str(stack), "-o", str(output), *how], check=True)
    seconds = time.perf_counter() - begun
    run = json.loads((output / "run.json").read_text())
    (record,) = run["files"].values()
    ran = run["session"]
    device = Device("cpu", ran["backend"], ran["precision"])
    (plan,) = plan_files([str(stack)], "cells3d", folder / "plan", options, device)
    names = ("objects", "tiles", "tile", "halo", "tiles_from_earlier_runs")
    figures = {
        "shape": shape,
        "max_ram_bytes": most,
        "planned_bytes": plan.memory_bytes,
        "peak_rss_bytes": run["peak_memory_bytes"],
        "within": run["peak_memory_bytes"] <= most,
        "seconds": round(seconds),
        "seconds_by_stage": record["seconds"],
        "backend": ran["backend"],
        "precision": ran["precision"],
        **{name: record[name] for name in names if name in record},
    }
    print(json.dumps(figures, indent=1))
    write_result("whole_stack", __doc__.partition("\n")[0], figures)


if __name__ == "__main__":
    main()
