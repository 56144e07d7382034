"""A run is killed with SIGKILL at random moments, again and again, and ends with the same bytes as one that is not.

`CELLENGINE_KILLS=500 CELLENGINE_KILL_SEED=7 pytest tests/cli/test_kills.py -s` for a long run or to repeat one.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellengine.cli import main
from cellengine.engine.checkpoint import scratch_folder
from cellengine.engine.verify import verify_output
from tests.engine.blobs import write_blob_model
from tests.synthetic import draw_volume

KILLS = int(os.environ.get("CELLENGINE_KILLS", "20"))
SEED = int(os.environ.get("CELLENGINE_KILL_SEED", random.randrange(10**6)))
LIMIT_S = 300

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork are of POSIX")


class Runner:
    """Starts `cellengine infer` in processes of its own, forked from one that has loaded the libraries already."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = list(arguments)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["cellengine.cli.infer", "onnxruntime"])

    def start(self, output: Path) -> BaseProcess:
        process = self._context.Process(target=main, args=([*self._arguments, "-o", str(output)],))
        process.start()
        return process

    def finish(self, output: Path) -> float:
        begun = time.perf_counter()
        process = self.start(output)
        process.join(LIMIT_S)
        assert process.exitcode == 0
        return time.perf_counter() - begun


def digests(output: Path) -> dict[str, str]:
    names = (p for p in output.iterdir() if p.suffix in (".tif", ".csv", ".png"))
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in names}


def tiles_kept(stem: Path) -> set[int]:
    """The tiles that the log of a run in progress says are finished."""
    log = scratch_folder(stem) / "log"
    lines = [line.partition(b" ")[2] for line in log.read_bytes().splitlines()] if log.exists() else []
    found = set()
    for text in lines:
        try:
            found.add(json.loads(text)["tile"])
        except (ValueError, KeyError):  # another kind of line, or one that was cut
            continue
    return found


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    folder = tmp_path_factory.mktemp("input")
    write_blob_model(folder / "blobs.onnx", "ZYX", tile=(32,) * 3, object_size_px=10.0)
    tifffile.imwrite(folder / "cells.tif", draw_volume((50, 110, 120), 80, 5), metadata={"axes": "ZYX"}, ome=True)
    how = ("--backend", "onnxruntime", "--precision", "fp32", "--device", "cpu", "--tile", "24", "--max-ram", "20MB")
    return Runner(("infer", str(folder / "cells.tif"), "-m", str(folder / "blobs.onnx"), *how))


@pytest.fixture(scope="module")
def whole(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """What a run gives that nobody stops, and how long it takes."""
    folder = tmp_path_factory.mktemp("whole")
    runner.finish(folder / "warm")
    seconds = runner.finish(folder / "out")
    assert record_of(folder / "out")["blocks"] > 3
    found = digests(folder / "out")
    assert set(found) == {"cells.labels.tif", "cells.objects.csv", "cells.overlay.png"}
    return found, seconds


def record_of(output: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((output / "run.json").read_text())["files"]["cells.tif"]
    return record


def test_a_run_that_is_killed_ends_with_the_same_bytes(
    runner: Runner, whole: tuple[dict[str, str], float], tmp_path: Path
) -> None:
    sys.stdout.write(f"seed {SEED}, {KILLS} kills\n")
    rng = np.random.default_rng(SEED)
    expected, seconds = whole
    killed = finished = 0
    output = tmp_path / f"out{finished}"
    while killed < KILLS or output.exists():
        kept = tiles_kept(output / "cells")
        process = runner.start(output)
        if killed < KILLS:
            process.join(rng.uniform(0.1, 1.0) * seconds)
            process.kill()
        process.join(LIMIT_S)
        if process.exitcode:
            assert process.exitcode == -signal.SIGKILL
            killed += 1
            continue
        assert digests(output) == expected, f"after {killed} kills"
        assert record_of(output)["tiles_from_earlier_runs"] >= len(kept), "what was finished is not computed again"
        assert verify_output(output).differing == ()
        assert not list(output.glob(".*.scratch")), "nothing is left behind"
        finished += 1
        output = tmp_path / f"out{finished}"
    assert finished > 0
    sys.stdout.write(f"{killed} kills in {finished} runs of {seconds:.1f} s each\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_stop_finishes_its_tile(
    runner: Runner, whole: tuple[dict[str, str], float], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    output = tmp_path / "out"
    process = runner.start(output)
    limit = time.monotonic() + LIMIT_S
    while not tiles_kept(output / "cells") and process.is_alive() and time.monotonic() < limit:
        time.sleep(0.005)
    os.kill(process.pid or 0, number)
    process.join(LIMIT_S)
    assert process.exitcode == code
    kept = tiles_kept(output / "cells")
    assert kept
    assert digests(output) == {}
    runner.finish(output)
    assert digests(output) == whole[0]
    assert record_of(output)["tiles_from_earlier_runs"] >= len(kept)
