"""`cellengine verify` and `cellengine infer --plan`: what a finished run holds, and what one would take."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cellengine.cli import main
from cellengine.engine import forecast
from tests.engine.blobs import write_blob_model
from tests.synthetic import draw_cells

HOW = ("--backend", "onnxruntime", "--precision", "fp32")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CELLENGINE_CACHE", str(tmp_path / "cache"))
    write_blob_model(tmp_path / "blobs.onnx")
    (tmp_path / "in").mkdir()
    for i in range(2):
        tifffile.imwrite(tmp_path / f"in/{i}.tif", draw_cells((200, 240), 20, i)[0])

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert isinstance(stop.value.code, int)
        return stop.value.code, *capsys.readouterr()

    return run


def infer(call: Call, *more: str) -> tuple[int, str, str]:
    return call("infer", "in", "-m", "blobs.onnx", *HOW, "-o", "out", *more)


def test_what_was_written_is_found_as_it_was(call: Call) -> None:
    assert infer(call, "--format", "ome-zarr")[0] == 0
    code, out, err = call("verify", "out")
    assert (code, err) == (0, "")
    assert "all 6 outputs of 2 inputs" in out
    shutil.move("out", "elsewhere")
    assert call("verify", "elsewhere")[0] == 0


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_differs_is_listed(call: Call) -> None:
    assert infer(call, "--format", "ome-zarr")[0] == 0
    flip(Path("out/0.objects.csv"))
    chunk = next(p for p in Path("out/1.labels.ome.zarr").rglob("c/0/0"))
    chunk.rename(chunk.with_name("1"))
    Path("out/1.overlay.png").unlink()
    code, out, err = call("verify", "out")
    assert code == 3
    assert sorted(out.splitlines()) == [
        "0.objects.csv: differs from what was written",
        "1.labels.ome.zarr: differs from what was written",
        "1.overlay.png: is missing",
    ]
    assert err.startswith("error: out: 3 of 6 outputs")


def test_an_unfinished_run_and_no_run_are_told_apart(call: Call) -> None:
    Path("in/1.tif").write_bytes(b"no picture")
    assert infer(call)[0] == 6
    code, _, err = call("verify", "out")
    assert (code, "3 outputs of 1 finished inputs" in err, "not finished" in err) == (3, True, True)
    assert call("verify", "in")[0] == 2
    assert call("verify", "nowhere")[0] == 2


def test_the_plan_is_told_and_nothing_is_done(call: Call) -> None:
    code, out, err = infer(call, "--plan")
    assert (code, err) == (0, "")
    assert "file 1/2 0.tif: YX 200 x 240" in out
    assert "in one piece, in memory" in out
    assert "never timed here" in out
    code, out, _ = infer(call, "--plan", "--max-ram", "1500kB", "--tile", "32")
    assert code == 0
    assert "blocks of" in out
    assert "90 tiles of 32 x 32 px with a halo of 4 x 4" in out
    assert not Path("out").exists()


def test_the_time_is_told_when_auto_has_timed(call: Call) -> None:
    assert call("infer", "in", "-m", "blobs.onnx", "-o", "out", "--plan")[0] == 0
    assert "s for the network, as timed here" in call("infer", "in", "-m", "blobs.onnx", "-o", "out", "--plan")[1]


def test_a_disk_that_is_too_small_is_refused_before_any_work(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(os.curdir)
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    for more in (("--plan",), ()):
        code, out, err = infer(call, *more)
        assert (code, out) == (5, "")
        assert "GB on the disk of" in err
        assert "0.0 GB are free" in err
    assert not [p for p in Path("out").glob("[!.]*") if p.name != "run.json"]


def test_the_plan_is_what_is_done(call: Call) -> None:
    tifffile.imwrite("in/0.tif", np.tile(draw_cells((200, 240), 20, 1)[0], (2, 2)))
    _, out, _ = infer(call, "--plan", "--max-ram", "2500kB", "--tile", "32")
    assert infer(call, "--max-ram", "2500kB", "--tile", "32")[0] == 0
    done = json.loads(Path("out/run.json").read_text())["files"]["0.tif"]
    assert f"network: {done['tiles']} tiles" in out
    assert f"labels: {done['blocks']} blocks" in out
