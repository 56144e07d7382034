"""`cellengine models`, `info` and `doctor` on real files and real runtimes."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tifffile
from onnx import helper

import cellengine.cli.doctor
import cellengine.zoo
from cellengine.cli import main
from cellengine.engine.backends import open_session
from cellengine.engine.golden import golden_input, make_golden
from cellengine.engine.model_file import GOLDEN_KEY
from cellengine.spec import METADATA_KEY, Components, ModelSpec, Normalize, Output, Parity

SPEC = ModelSpec(
    name="tiny",
    task="instances",
    axes="YX",
    channels=("gray",),
    tile=(64, 64),
    divisor=(1, 1),
    receptive_field=(1, 1),
    halo=(1, 1),
    normalize=Normalize("minmax"),
    outputs=(Output("foreground"),),
    decoder=Components(),
    voxel_size_um=(0.5, 0.25),
    parity=(Parity("fp32", "onnxruntime", "cpu", True, 7, 1e-6, f1_at_80=1.0, count_difference=0.001),),
    metrics={"AP50": 0.875},
    licence="CC0",
    training_data="none at all",
)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLENGINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """One convolution with a golden test that onnxruntime answered."""
    path = tmp_path / "tiny.onnx"
    weight = np.random.default_rng(0).normal(0, 1, (1, 1, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["x"], ["foreground"]),
    ]
    values = [helper.make_tensor_value_info(name, 1, ["n", 1, "y", "x"]) for name in ("image", "foreground")]
    graph = helper.make_graph(nodes, "tiny", values[:1], values[1:], [onnx.numpy_helper.from_array(weight, "w")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, {METADATA_KEY: SPEC.to_json()})
    onnx.save(proto, path)
    with open_session(path, backend="onnxruntime", precision="fp32") as session:
        golden = make_golden(session.run(golden_input(1, (64, 64))), 1, (64, 64))
    helper.set_model_props(proto, {METADATA_KEY: SPEC.to_json(), GOLDEN_KEY: golden.to_json()})
    onnx.save(proto, path)
    return path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_models_lists_what_is_bundled(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(cellengine.zoo, "FOLDER", model.parent)
    assert run("models") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny")]
    for text in ("instances", "YX", "gray", "0.0 MB", "AP50 0.875", "fp32", "CC0"):
        assert text in line


def test_models_says_when_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(cellengine.zoo, "FOLDER", tmp_path)
    assert run("models") == 0
    assert "No models are bundled" in capsys.readouterr().out


def test_info_of_a_model(model: Path, capsys: Any) -> None:
    assert run("info", str(model)) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "task instances",
        "channels gray",
        "voxel size y 0.5 um, x 0.25 um",
        "decoder components: threshold 0.5",
        "normalisation minmax: per_channel True",  # without percentiles, which it does not use
        "metrics AP50 0.875",
        "golden test yes",
        "fp32 onnxruntime cpu yes 7 1e-06 1.0000 +0.10% - -",
    ):
        assert part in text


def test_info_of_a_picture(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "stack.ome.tif"
    size = {"PhysicalSizeZ": 2.0, "PhysicalSizeY": 0.5, "PhysicalSizeX": 0.5}
    planes = np.zeros((3, 2, 40, 30), np.uint16)
    tifffile.imwrite(path, planes, ome=True, metadata={"axes": "ZCYX", **size, "Channel": {"Name": ["dapi", "gfp"]}})
    assert run("info", str(path)) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "stack.ome.tif: a picture" in text
    assert "dtype uint16" in text
    assert "channels 2, dapi, gfp" in text
    assert "voxel size z 2 um, y 0.5 um, x 0.5 um" in text
    assert "40 x 30" in text


def test_info_of_a_picture_without_names_takes_axes(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, np.zeros((5, 40, 30), np.uint8), photometric="minisblack", metadata=None)
    assert run("info", str(path), "--axes", "TYX") == 0
    assert "axes TYX" in " ".join(capsys.readouterr().out.replace("\n", " ").split())


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [("unknown", 4, "Unknown model unknown"), ("no.onnx", 2, "does not exist"), ("no.tif", 2, "no.tif")],
)
def test_info_of_nothing(name: str, code: int, message: str, capsys: Any) -> None:
    assert run("info", name) == code
    assert message in capsys.readouterr().err


def test_info_of_damaged_files(model: Path, tmp_path: Path, capsys: Any) -> None:
    model.write_bytes(model.read_bytes()[:-50])
    assert run("info", str(model)) == 4
    (tmp_path / "bad.tif").write_bytes(b"II*\0 nothing")
    assert run("info", str(tmp_path / "bad.tif")) == 3
    assert capsys.readouterr().err.count("error: ") == 2


def test_doctor_proves_a_model(model: Path, capsys: Any) -> None:
    assert run("doctor", str(model)) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "processor" in text
    assert "openvino cpu fp32 as exported" in text
    assert "onnxruntime cpu fp32 as exported" in text
    assert "not tried: onnxruntime bf16 on cpu" in text
    assert "auto: not chosen yet" in text
    open_session(model).close()
    assert run("doctor", str(model)) == 0
    assert "delete" in (text := capsys.readouterr().out)
    assert "auto: " in text


def test_doctor_sees_a_model_that_computes_something_else(model: Path, capsys: Any) -> None:
    proto = onnx.load(model)
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weight[0, 0, 1, 1] += np.float32(0.01)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(proto, model)
    assert run("doctor", str(model)) == 5
    out, err = capsys.readouterr()
    assert "failed: differs by up to" in out
    assert "golden tests failed" in err


def test_doctor_looks_at_all_bundled_models(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(cellengine.zoo, "FOLDER", model.parent)
    assert run("doctor") == 0
    text = capsys.readouterr().out
    assert "Golden test of tiny.onnx" in text
    assert "not tried" not in text


def test_doctor_explains_both_wheels_of_onnxruntime(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    """With real metadata of a second wheel on the path, as pip leaves it."""
    other = {"onnxruntime", "onnxruntime-gpu"} - {d.name for d in importlib.metadata.distributions()}
    (name,) = other
    folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(cellengine.zoo, "FOLDER", tmp_path)
    assert run("doctor") == 0
    assert "are both installed and overwrite each other" in capsys.readouterr().out
