"""What does preparing a large volume cost, in time and memory, beside doing it on the whole array with scipy?

A stack of doubles that hold 12-bit integers, as MATLAB stores it, becomes uint16, is reduced by 4, 8, 8, and its cells
are parted. The peer reads the stack whole and uses scipy.ndimage and skimage.segmentation as their documentation does.
Each runs in a fresh process, whose peak memory is the figure. A stack of report B has some 256,1024,1024 voxels.

python benchmarks/prepare_volumes.py --shape 256,1024,1024 --runs 3
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

from _timing import write_result

OURS = """
import json, resource, sys, time
from pathlib import Path
from cellengine.train.prepare.volumes import VolumeOptions, prepare_volumes
begun = time.perf_counter()
prepare_volumes(Path(sys.argv[1]), Path(sys.argv[2]), VolumeOptions(axes="ZYX", factor=(4, 8, 8), gap=True))
print(json.dumps({"s": time.perf_counter() - begun, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""
PEER = """
import json, resource, sys, time
from pathlib import Path
import h5py
import numpy as np
from scipy import ndimage
from skimage.segmentation import find_boundaries
begun = time.perf_counter()
with h5py.File(next(Path(sys.argv[1]).glob("*.h5"))) as file:
    raw, labels = file["raw"][:].astype(np.float32), file["label"][:].astype(np.uint16)
sigma = [((f * f - 1) / 12) ** 0.5 for f in (4, 8, 8)]
factor = (1 / 4, 1 / 8, 1 / 8)
small = ndimage.zoom(ndimage.gaussian_filter(raw, sigma), factor, order=3, grid_mode=True, mode="reflect")
cells = ndimage.zoom(labels, factor, order=0, grid_mode=True, mode="nearest")
cells[find_boundaries(cells, connectivity=3, mode="outer") & (cells > 0)] = 0
with h5py.File(Path(sys.argv[2]).with_suffix(".h5"), "w") as file:
    file.create_dataset("raw", data=small, compression="gzip", compression_opts=4)
    file.create_dataset("label", data=cells, compression="gzip", compression_opts=4)
print(json.dumps({"s": time.perf_counter() - begun, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def write_stack(path: Path, shape: tuple[int, int, int]) -> None:
    """A stack of doubles and labels, written plane by plane."""
    random = np.random.default_rng(1)
    plane = random.integers(0, 4096, shape[1:]).astype(np.float64)
    y, x = np.indices(shape[1:])
    with h5py.File(path, "w") as file:
        raw, labels = (
            file.create_dataset(n, shape, "f8", chunks=(8, 128, 128), compression="gzip") for n in ("raw", "label")
        )
        for z in range(shape[0]):
            raw[z] = np.roll(plane, z, axis=1)
            labels[z] = (z // 32) * 4096 + (y // 64) * 64 + x // 64 + 1


def main() -> None:
    """Run both and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="64,512,512")
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    shape = tuple(int(n) for n in arguments.shape.split(","))
    found: dict[str, list[dict[str, float]]] = {"cellengine": [], "scipy": []}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        write_stack(Path(folder) / "in" / "stack.h5", (shape[0], shape[1], shape[2]))
        for run in range(arguments.runs):
            for name, program in (("cellengine", OURS), ("scipy", PEER)):
                target = Path(folder) / f"{name}{run}"
                command = [sys.executable, "-c", program, str(Path(folder) / "in"), str(target)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        name: {key: float(np.median([run[key] for run in runs])) for key in ("s", "peak")}
        for name, runs in found.items()
    }
    question = "Preparing a stack of doubles for training, beside scipy on the whole array: time and peak memory"
    write_result("prepare_volumes", question, {"shape": list(shape), "input_bytes": int(np.prod(shape)) * 8, **medians})


if __name__ == "__main__":
    main()
