"""Is the memory that cellengine reports what the operating system counts?

`infer` writes its peak into run.json, `bench` into its table. Beside each the kernel's own account of the same
process is read: the largest resident set that it hands over with a child that has ended (wait4).

python benchmarks/memory_numbers.py [--model nuclei] [--tiles 256,512,1024]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tifffile

from _pictures import mosaic
from _timing import write_result
from cellengine.engine.benchmark.cases import BenchResult, Case
from cellengine.engine.benchmark.run import WORKER
from cellengine.engine.journal import RUN, read_json
from cellengine.engine.model_file import resolve_model
from cellengine.records import from_plain, to_plain


def run(command: list[str], given: str = "") -> tuple[str, int]:
    """What a process printed, and the largest resident set in bytes that the kernel counted of it alone."""
    with tempfile.TemporaryFile("w+") as entered, tempfile.TemporaryFile("w+") as printed:
        entered.write(given)
        entered.seek(0)
        child = subprocess.Popen(command, stdin=entered, stdout=printed)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{command} ended with {child.returncode}")
        printed.seek(0)
        return printed.read(), usage.ru_maxrss * 1024


def bench(model: str, tile: int, precision: str) -> dict[str, Any]:
    """One combination as `cellengine bench` measures it, in OpenVINO."""
    path = resolve_model(model)
    case = Case(path.stem, str(path), "openvino", "cpu", precision, (tile, tile), 1)
    answer, counted = run([sys.executable, "-m", WORKER], json.dumps(to_plain(case)))
    result = from_plain(BenchResult, json.loads(answer.splitlines()[-1]))
    if result.skipped or result.peak_rss_bytes is None:
        raise SystemExit(f"bench skipped {case}: {result.skipped}")
    name = f"bench {tile} px {precision}"
    return {"what": name, "reported_bytes": result.peak_rss_bytes, "counted_bytes": counted}


def infer(model: str, side: int, folder: Path) -> dict[str, Any]:
    """A whole run on a mosaic of nuclei."""
    picture, output = folder / f"{side}.tif", folder / f"out{side}"
    tifffile.imwrite(picture, mosaic(side), tile=(512, 512), compression="zlib")
    code = "from cellengine.cli import main; main()"
    how = ["--device", "cpu", "--backend", "openvino", "--precision", "bf16"]
    _, counted = run([sys.executable, "-c", code, "infer", str(picture), "-m", model, "-o", str(output), *how])
    reported = read_json(output / RUN)["peak_memory_bytes"]
    return {"what": f"infer {side} px", "reported_bytes": reported, "counted_bytes": counted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--tiles", default="256,512,1024")
    parser.add_argument("--side", type=int, default=2048)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = [infer(given.model, given.side, Path(place))]
        rows += [bench(given.model, int(tile), p) for tile in given.tiles.split(",") for p in ("fp32", "bf16")]
    for row in rows:
        row["difference"] = row["reported_bytes"] / row["counted_bytes"] - 1
        print(f"{row['what']}: {row['reported_bytes'] / 1e6:.0f} MB, counted {row['counted_bytes'] / 1e6:.0f} MB")
    worst = max(abs(row["difference"]) for row in rows)
    write_result("memory_numbers", __doc__.partition("\n")[0], {"largest_difference": worst, "rows": rows})


if __name__ == "__main__":
    main()
