"""How much faster are two workers than one, and do they write the same? `infer --dask local:N`, one thread a process.

A mosaic of real nuclei, labelled in blocks with the bundled model by one worker and by two. Whole commands are timed,
from the start of the program to its end. (That a run without workers writes the same is in tests/engine.)

python benchmarks/scaleout.py [--side 12288] [--workers 1,2] [--max-ram 6GB]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import tifffile

from _pictures import mosaic
from _timing import timed_once, write_result
from cellengine.engine.journal import RUN, read_json
from cellengine.engine.outputs import checksum
from cellengine.ops.threads import THREADS_VARIABLE

PROGRAM = "from cellengine.cli import main; main()"
HOW = ("--device", "cpu", "--backend", "onnxruntime", "--precision", "fp32")
ENDS = ("labels.tif", "objects.csv", "overlay.png")


def label(picture: Path, output: Path, *arguments: str) -> dict[str, Any]:
    """Run the command with one thread a process; what it recorded of the picture."""
    command = [sys.executable, "-c", PROGRAM, "infer", str(picture), "-o", str(output), *HOW, *arguments]
    one_thread = {THREADS_VARIABLE: "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=os.environ | one_thread, check=True, stdout=subprocess.DEVNULL)
    record: dict[str, Any] = read_json(output / RUN)["files"][picture.name]
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=12288)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--max-ram", default="6GB")
    given = parser.parse_args()
    runs = {f"local:{n}": ("--dask", f"local:{n}") for n in given.workers.split(",")}
    figures: dict[str, Any] = {"side": given.side}
    found: dict[str, tuple[str, ...]] = {}
    with tempfile.TemporaryDirectory() as name:
        picture = Path(name) / "nuclei.tif"
        small = Path(name) / "small.tif"
        tifffile.imwrite(picture, mosaic(given.side), tile=(512, 512), compression="zlib")
        tifffile.imwrite(small, mosaic(512))
        label(small, Path(name) / "warm")  # kernels are compiled once per installation
        for number, (run, arguments) in enumerate(runs.items()):
            output = Path(name) / str(number)
            times, record = timed_once(partial(label, picture, output, "--max-ram", given.max_ram, *arguments))
            found[run] = tuple(checksum(output / f"nuclei.{end}") for end in ENDS)
            kept = ("tile", "block", "blocks", "tiles", "objects", "seconds")
            figures[run] = {"wall_s": round(times["median_s"], 2)} | {key: record[key] for key in kept}
    first, last = (f"local:{given.workers.split(',')[i]}" for i in (0, -1))
    figures["faster"] = round(figures[first]["wall_s"] / figures[last]["wall_s"], 3)
    figures["identical"] = len(set(found.values())) == 1
    write_result(
        "scaleout", f"Wall time of infer with {first} over that with {last}, and whether outputs agree", figures
    )


if __name__ == "__main__":
    main()
