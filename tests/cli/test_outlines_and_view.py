"""Outlines beside the other results, and what `view` would open; napari itself is not part of the test machines."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import roifile
import tifffile
from PIL import Image

from cellengine.cli import main
from cellengine.cli.view import find_shown
from tests.engine.blobs import write_blob_model
from tests.synthetic import draw_cells

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    write_blob_model(tmp_path / "m.onnx")

    def call(*arguments: str) -> int:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert isinstance(stop.value.code, int)
        return stop.value.code

    return call


HOW = ("-m", "m.onnx", "--backend", "onnxruntime", "--precision", "fp32")


@pytest.mark.parametrize("form", ["tif", "ome-zarr"])
def test_infer_writes_outlines(run: Run, form: str) -> None:
    Image.fromarray(draw_cells((96, 80), 20, 0)[0]).save("a.png")
    assert run("infer", "a.png", *HOW, "-o", "out", "--outlines", "geojson", "--format", form) == 0
    collection = json.loads(Path("out/a.outlines.geojson").read_text())
    record = json.loads(Path("out/run.json").read_text())["files"]["a.png"]
    assert len(collection["features"]) == record["objects"] > 3
    assert "a.outlines.geojson" in record["outputs"]


def test_a_series_has_its_frames_in_the_outlines(run: Run) -> None:
    series = np.stack([draw_cells((96, 80), 20, seed)[0] for seed in range(3)])
    tifffile.imwrite("series.tif", series, imagej=True, metadata={"axes": "TYX"})
    assert run("infer", "series.tif", *HOW, "-o", "out", "--outlines", "imagej") == 0
    labels = tifffile.imread("out/series.labels.tif")
    rois = roifile.roiread("out/series.outlines.zip")
    assert len({roi.name.split("-")[0] for roi in rois}) == labels.max()
    for roi in rois:
        frame = labels[roi.t_position - 1]
        y, x = np.nonzero(frame == int(roi.name.split("-")[0]))
        assert roi.top >= y.min()
        assert roi.right <= x.max() + 1


def test_view_finds_what_belongs_together(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(draw_cells((96, 80), 20, 0)[0]).save(name)
    assert run("infer", "a.png", "b.png", *HOW, "-o", "out") == 0
    shown = find_shown(Path("out"), "b.png")
    assert shown["image"] == tmp_path / "b.png"
    assert (shown["labels"], shown["table"]) == (Path("out/b.labels.tif"), Path("out/b.objects.csv"))
    Path("b.png").unlink()
    assert find_shown(Path("out"), "b.png")["image"] is None
    assert find_shown(Path("out"), None)["name"] == "a.png"
    assert run("view", "out", "--file", "c.png") == 2
    assert run("view", "nowhere") == 2
    if importlib.util.find_spec("napari") is None:
        capsys.readouterr()
        assert run("view", "out") == 5
        assert "pip install 'cellengine[view]'" in capsys.readouterr().err
