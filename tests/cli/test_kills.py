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
from dataclasses import dataclass
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
from tests.engine.classes import write_class_model
from tests.engine.detector import write_peak_model
from tests.synthetic import draw_cells, draw_volume

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


def pieces_kept(stem: Path, what: str) -> set[int]:
    """The pieces that the log of a run in progress says are finished."""
    log = scratch_folder(stem) / "log"
    lines = [line.partition(b" ")[2] for line in log.read_bytes().splitlines()] if log.exists() else []
    found = set()
    for text in lines:
        try:
            found.add(json.loads(text)[what])
        except (ValueError, KeyError):  # another kind of line, or one that was cut
            continue
    return found


@dataclass(frozen=True, slots=True)
class Case:
    """A run to be killed: how it is started, what its log calls a piece of the network's work, and its outputs."""

    runner: Runner
    piece: str
    ends: tuple[str, ...]
    kills: int


def instances(folder: Path) -> Case:
    """A volume labelled in blocks."""
    write_blob_model(folder / "model.onnx", "ZYX", tile=(32,) * 3, object_size_px=10.0)
    tifffile.imwrite(folder / "cells.tif", draw_volume((50, 110, 120), 80, 5), metadata={"axes": "ZYX"}, ome=True)
    return Case(started(folder, "--tile", "24", "--max-ram", "20MB"), "tile", ("labels.tif", "objects.csv"), KILLS)


def semantic(folder: Path) -> Case:
    """A class map whose tiles are kept."""
    write_class_model(folder / "model.onnx")
    tifffile.imwrite(folder / "cells.tif", draw_cells((500, 600), 150, 2, (5, 9))[0])
    return Case(started(folder, "--tile", "32", "--max-ram", "1MB"), "block", ("labels.tif", "classes.csv"), KILLS // 4)


def detector(folder: Path) -> Case:
    """A detector whose windows are kept."""
    write_peak_model(folder / "model.onnx")
    tifffile.imwrite(folder / "cells.tif", draw_cells((500, 600), 150, 2, (7, 9))[0])
    return Case(started(folder, "--tile", "96", "--max-ram", "1MB"), "block", ("labels.tif", "objects.csv"), KILLS // 4)


def started(folder: Path, *options: str) -> Runner:
    how = ("--backend", "onnxruntime", "--precision", "fp32", "--device", "cpu", *options)
    return Runner(("infer", str(folder / "cells.tif"), "-m", str(folder / "model.onnx"), *how))


@pytest.fixture(scope="module", params=[instances, semantic, detector])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    made: Case = request.param(tmp_path_factory.mktemp("input"))
    return made


@pytest.fixture(scope="module")
def whole(case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """What a run gives that nobody stops, and how long it takes."""
    folder = tmp_path_factory.mktemp("whole")
    case.runner.finish(folder / "warm")
    seconds = case.runner.finish(folder / "out")
    assert "tiles_from_earlier_runs" in record_of(folder / "out"), "this run keeps what is finished"
    found = digests(folder / "out")
    assert set(found) == {f"cells.{end}" for end in (*case.ends, "overlay.png")}
    return found, seconds


def record_of(output: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((output / "run.json").read_text())["files"]["cells.tif"]
    return record


def test_a_run_that_is_killed_ends_with_the_same_bytes(
    case: Case, whole: tuple[dict[str, str], float], tmp_path: Path
) -> None:
    sys.stdout.write(f"seed {SEED}, {case.kills} kills\n")
    rng = np.random.default_rng(SEED)
    expected, seconds = whole
    killed = finished = 0
    output = tmp_path / f"out{finished}"
    while killed < case.kills or output.exists():
        kept = pieces_kept(output / "cells", case.piece)
        process = case.runner.start(output)
        if killed < case.kills:
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
    case: Case, whole: tuple[dict[str, str], float], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    output = tmp_path / "out"
    process = case.runner.start(output)
    limit = time.monotonic() + LIMIT_S
    while not pieces_kept(output / "cells", case.piece) and process.is_alive() and time.monotonic() < limit:
        time.sleep(0.005)
    os.kill(process.pid or 0, number)
    process.join(LIMIT_S)
    assert process.exitcode == code
    kept = pieces_kept(output / "cells", case.piece)
    assert kept
    assert digests(output) == {}
    case.runner.finish(output)
    assert digests(output) == whole[0]
    assert record_of(output)["tiles_from_earlier_runs"] >= len(kept)
