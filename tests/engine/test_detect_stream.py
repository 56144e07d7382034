"""A detector on pictures larger than memory: the labels and the table of the whole, from pieces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cellengine.engine.batch import Device, infer_files
from cellengine.engine.options import InferOptions
from cellengine.io import read_table
from tests.engine.classes import write_class_model
from tests.engine.detector import write_peak_model
from tests.synthetic import draw_cells

HOW = Device("cpu", "onnxruntime", "fp32")


@pytest.mark.parametrize("size", [None, 0.25, 0.8])
def test_pieces_and_whole_give_the_same(tmp_path: Path, size: float | None) -> None:
    """Also where the network sees smaller or larger voxels than the picture has, and with a classifier behind it."""
    model = write_peak_model(tmp_path / "peaks.onnx", voxel_size_um=None if size is None else (0.5, 0.5))
    then = write_class_model(tmp_path / "kinds.onnx", task="classification", tile=(12, 12), divisor=(1, 1))
    picture, truth = draw_cells((280, 330), 60, 4, (7, 9))
    tifffile.imwrite(tmp_path / "cells.tif", np.stack([picture, picture[::-1]]), metadata={"axes": "ZYX"})
    voxel = None if size is None else (1.0, size, size)
    files = {}
    for name, ram in (("whole", None), ("pieces", 1_000_000)):
        options = InferOptions(max_ram=ram, tile=(96,), axes="ZYX", voxel_size_um=voxel)
        infer_files([str(tmp_path / "cells.tif")], str(model), tmp_path / name, options, HOW, then=str(then))
        record = json.loads((tmp_path / name / "run.json").read_text())["files"]["cells.tif"]
        files[name] = [(tmp_path / name / f"cells.{end}").read_bytes() for end in ("labels.tif", "objects.csv")]
        assert ("pieces" in record) == (ram is not None)
        assert record["outputs"] == ["cells.labels.tif", "cells.objects.csv", "cells.overlay.png"]
    assert files["whole"] == files["pieces"]
    table = read_table(tmp_path / "pieces" / "cells.objects.csv")
    assert len(table["label"]) == record["objects"] > 20
    if size is None:
        assert record["objects"] == pytest.approx(2 * truth.max(), rel=0.2)
    labels = tifffile.imread(tmp_path / "pieces" / "cells.labels.tif")
    np.testing.assert_array_equal(np.bincount(labels.ravel())[1:], table["area_px"])


def test_scores_and_classes_are_the_detectors(tmp_path: Path) -> None:
    model = write_peak_model(tmp_path / "peaks.onnx")
    picture, _ = draw_cells((200, 210), 30, 4, (7, 9))
    tifffile.imwrite(tmp_path / "cells.tif", picture)
    options = InferOptions(max_ram=500_000, tile=(96,))
    infer_files([str(tmp_path / "cells.tif")], str(model), tmp_path / "out", options, HOW)
    table = read_table(tmp_path / "out" / "cells.objects.csv")
    assert set(table["class"]) == {"dim", "bright"}
    np.testing.assert_array_equal(table["class"] == "bright", table["score"] > 0.6)
    assert (table["score"] >= 0.3).all()


def test_an_empty_picture(tmp_path: Path) -> None:
    model = write_peak_model(tmp_path / "peaks.onnx")
    tifffile.imwrite(tmp_path / "cells.tif", np.full((200, 210), 7, np.uint8))
    options = InferOptions(max_ram=300_000, tile=(96,))
    summary = infer_files([str(tmp_path / "cells.tif")], str(model), tmp_path / "out", options, HOW)
    assert summary.records["cells.tif"]["objects"] == 0
    assert not tifffile.imread(tmp_path / "out" / "cells.labels.tif").any()
    assert "score" in read_table(tmp_path / "out" / "cells.objects.csv")
