"""Benchmarks: every combination with figures or a reason, comparison with an earlier run, a choice within a budget."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellengine.cli import main
from cellengine.engine.backends.hardware import cuda_devices
from cellengine.engine.benchmark import run as room
from cellengine.engine.benchmark import worker
from cellengine.engine.benchmark.cases import COLUMNS, BenchResult, Case, list_cases
from cellengine.engine.benchmark.report import charts
from cellengine.engine.benchmark.run import compare, measure_case, measure_together, read_results, recommend
from cellengine.engine.model_file import read_model_file
from cellengine.errors import InputError, UsageError
from cellengine.records import to_plain
from cellengine.spec import Parity

needs_no_gpu = pytest.mark.skipif(cuda_devices() > 0, reason="this machine has an NVIDIA device")


def cellengine(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real run of the command on a tiny model: two backends, one precision, one tile."""
    from tests.engine.conftest import write_tiny_model

    folder = tmp_path_factory.mktemp("bench")
    model = write_tiny_model(folder / "tiny.onnx")
    how = ("--backend", "onnxruntime", "--backend", "openvino", "--precision", "fp32", "--precision", "bf16")
    assert cellengine("bench", str(model), "-o", str(folder / "out"), "--device", "cpu", "--tile", "64", *how) == 0
    return folder


def test_every_combination_has_figures_or_a_reason(measured: Path) -> None:
    with (measured / "out" / "bench.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert {(r["backend"], r["precision"]) for r in rows} == {
        (b, p) for b in ("onnxruntime", "openvino") for p in ("fp32", "bf16")
    }
    for row in rows:
        assert (row["model"], row["device"], row["tile"], row["batch"]) == ("tiny", "cpu", "64,64", "1")
        if row["precision"] == "bf16":
            assert row["skipped"]
            assert row["p50_ms"] == row["voxels_per_s"] == ""
            continue
        assert 0 < float(row["p50_ms"]) <= float(row["p90_ms"]) <= float(row["p99_ms"])
        assert float(row["voxels_per_s"]) > 0
        assert float(row["load_s"]) > 0
        assert 30e6 < float(row["peak_rss_bytes"]) < 4e9
        assert row["peak_device_bytes"] == ""
        assert (row["parity"], row["skipped"]) == ("reference", "")
    assert "Skipped" in (measured / "out" / "bench.md").read_text()
    assert "<svg" in (measured / "out" / "bench.html").read_text()


def test_memory_is_what_the_system_counts(measured: Path) -> None:
    """A larger batch shows in the peak; the memory of the process that started the worker does not."""
    ballast = np.ones(100_000_000, np.float32)
    results = read_results(measured / "out" / "bench.json")
    peak = {r.backend: r.peak_rss_bytes for r in results if not r.skipped}
    assert all(value is not None for value in peak.values())
    case = Case("tiny", str(measured / "tiny.onnx"), "onnxruntime", "cpu", "fp32", (512, 512), 8)
    larger = measure_case(case)
    assert not larger.skipped
    assert (larger.peak_rss_bytes or 0) < ballast.nbytes
    # 8 x 3 x 512 x 512 floats in, two maps of 8 x 512 x 512 floats out
    assert (larger.peak_rss_bytes or 0) > (peak["onnxruntime"] or 0) + 25e6


INDEPENDENT = """
import json, os, subprocess, sys
worker = subprocess.Popen([sys.executable, "-m", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
worker.stdin.write(sys.argv[2].encode())
worker.stdin.close()
answer = worker.stdout.read()
_, _, usage = os.wait4(worker.pid, 0)
print(json.dumps([json.loads(answer)["peak_rss_bytes"], 1024 * usage.ru_maxrss]))
"""
"""A small process that starts the worker and asks the kernel afterwards what it has held at most."""


@pytest.mark.skipif(sys.platform != "linux", reason="counts as Linux does")
def test_memory_agrees_with_what_the_parent_is_told(measured: Path) -> None:
    case = Case("tiny", str(measured / "tiny.onnx"), "onnxruntime", "cpu", "fp32", (256, 256), 16)
    command = [sys.executable, "-c", INDEPENDENT, room.WORKER, json.dumps(to_plain(case))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told, counted = json.loads(done.stdout)
    assert told == pytest.approx(counted, rel=0.05)


def test_parity_is_that_of_the_device(tmp_path: Path) -> None:
    """What was measured on a CPU says nothing of a GPU, and an emulated precision nothing of the real one."""
    from tests.engine.conftest import small_spec, write_tiny_model

    made = Parity("fp32", "onnxruntime", "cpu", passed=True, pictures=9, max_difference=0.001, f1_at_80=0.9994)
    for proof, expected in (
        (made, "F1 0.9994"),
        (replace(made, device="cuda:0"), "reference"),
        (replace(made, emulated=True), "reference"),
    ):
        model = read_model_file(write_tiny_model(tmp_path / "tiny.onnx", small_spec(parity=(proof,))))
        cases, _ = list_cases(model, ["cpu"], ["onnxruntime"], ["fp32"], [], [])
        assert [case.parity for case in cases] == [expected]


def test_a_process_that_dies_is_a_reason(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("tiny", str(measured / "tiny.onnx"), "onnxruntime", "cpu", "fp32", (64, 64), 1)
    monkeypatch.setattr(room, "WORKER", "this")  # prints the Zen of Python, which is no result
    assert "its process ended with 0" in measure_case(case).skipped
    gone = replace(case, path=str(measured / "gone.onnx"))
    assert "does not exist" in worker.measure(gone).skipped


def test_what_does_not_exist_is_refused(measured: Path, capsys: Any) -> None:
    model = read_model_file(measured / "tiny.onnx")
    with pytest.raises(UsageError, match="Unknown backend"):
        list_cases(model, ["cpu"], ["tensorflow"], [], [], [])
    with pytest.raises(UsageError, match="multiples of 4,4"):
        list_cases(model, ["cpu"], [], [], [(66,)], [])
    assert cellengine("bench", str(measured / "tiny.onnx"), "-o", str(measured / "x"), "--budget", "8") == 2
    assert cellengine("bench", str(measured / "tiny.onnx"), "-o", str(measured / "x"), "--compare", "no.json") == 2
    assert "bench.json" in capsys.readouterr().err
    (measured / "bad.json").write_text("[]")
    with pytest.raises(InputError, match=r"is no bench\.json"):
        read_results(measured / "bad.json")


@needs_no_gpu
def test_tensorrt_is_listed_with_what_is_missing(measured: Path) -> None:
    cases, skipped = list_cases(read_model_file(measured / "tiny.onnx"), ["cuda:0"], [], ["fp32"], [], [])
    assert cases == []
    assert {r.backend for r in skipped} >= {"onnxruntime", "openvino"}
    assert all(r.skipped for r in skipped)


def result(speed: float = 1e6, memory: int = 10**9, **changes: Any) -> BenchResult:
    made = BenchResult(
        "m", "onnxruntime", "cpu", "fp32", (64, 64), 1, seconds=(0.1, 0.2), voxels_per_s=speed, peak_rss_bytes=memory
    )
    return replace(made, **changes)


def test_slower_and_larger_are_told_from_noise() -> None:
    before = [result(), result(batch=2), result(batch=4), result(batch=8, skipped="no", voxels_per_s=None)]
    now = [result(0.95e6), result(0.85e6, batch=2), result(memory=1_200_000_000, batch=4), result(batch=8)]
    changes = compare(now, before)
    assert [c.worse for c in changes] == [False, True, True]
    assert [round(c.speed, 2) for c in changes] == [0.95, 0.85, 1.0]


def test_a_regression_ends_with_its_exit_code(measured: Path, capsys: Any) -> None:
    old = json.loads((measured / "out" / "bench.json").read_text())
    for entry in old["results"]:
        if "voxels_per_s" in entry:
            entry["voxels_per_s"] *= 1000
    (measured / "old.json").write_text(json.dumps(old))
    how = ("--backend", "onnxruntime", "--precision", "fp32", "--device", "cpu", "--tile", "64")
    against = ("--compare", str(measured / "old.json"), "--budget", "8GB")
    assert cellengine("bench", str(measured / "tiny.onnx"), "-o", str(measured / "new"), *how, *against) == 6
    out, err = capsys.readouterr()
    assert "1 of 1 combinations are slower or larger" in err
    assert "fastest within 8 GB: --backend onnxruntime --precision fp32 --device cpu --tile 64,64" in out


def test_the_budget_counts_what_is_scarce() -> None:
    fast = result(9e6, 9 * 10**9)
    small = result(5e6, 10**9, precision="int8")
    gpu = result(8e6, 20 * 10**9, device="cuda:0", peak_device_bytes=2 * 10**9)
    assert recommend([fast, small, gpu], 10**10) == fast
    assert recommend([fast, small, gpu], 4 * 10**9) == gpu
    assert recommend([fast, small, gpu], 10**8) is None


def test_several_devices_are_measured_at_once(measured: Path) -> None:
    """Two processes on one CPU stand for two devices: the sum of their speeds, beside that of one."""
    case = Case("tiny", str(measured / "tiny.onnx"), "onnxruntime", "cpu", "fp32", (64, 64), 1, "reference")
    alone = measure_case(case)
    both = measure_together([case, case], [alone, alone])
    assert both.device == "cpu,cpu"
    assert both.voxels_per_s
    assert "of 2 alone" in both.parity
    assert len(both.seconds) >= 2 * len(alone.seconds) - 400


def test_charts_follow_what_varies() -> None:
    results = [result(batch=b, tile=(t, t)) for b in (1, 2) for t in (64, 128)]
    titles = " ".join(charts(results))
    for title in ("m: speed", "latency by batch", "memory by tile"):
        assert title in titles
    assert "latency by batch" not in " ".join(charts([result()]))


def test_percentiles() -> None:
    several = result(seconds=tuple(i / 1000 for i in range(1, 102)))
    assert [several.percentile_ms(s) for s in (0.5, 0.9, 0.99)] == pytest.approx([51, 91, 100])
    assert result(seconds=(0.25,)).percentile_ms(0.99) == 250
    assert result(seconds=()).percentile_ms(0.5) is None


def test_the_worker_needs_no_torch() -> None:
    program = "import sys, cellengine.engine.benchmark.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
