"""Models are found by name or path, and everything wrong with one is said before it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import cellengine.zoo
from cellengine.engine.model_file import find_form, form_path, read_model_file, resolve_model
from cellengine.errors import ModelError, UsageError
from cellengine.spec import METADATA_KEY, ArgMax, ClassOf, Output

Write = Callable[..., Path]


@pytest.fixture
def path(tmp_path: Path, write_tiny_model: Write) -> Path:
    return write_tiny_model(tmp_path / "tiny.onnx")


def edit(path: Path, change: Callable[[onnx.ModelProto], Any]) -> None:
    proto = onnx.load(path)
    change(proto)
    path.write_bytes(proto.SerializeToString())


def test_reads_spec_and_hash(path: Path, small_spec: Any) -> None:
    model = read_model_file(path)
    assert model.spec == small_spec()
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.content == path.read_bytes()
    assert (model.golden, model.form, model.parent) == (None, None, None)


def test_a_real_export_passes_and_carries_its_golden_test(small_model: Any) -> None:
    model = read_model_file(small_model.path)
    assert model.spec == small_model.spec
    assert model.golden is not None
    assert set(model.golden.outputs) == {"foreground", "distance"}


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6, 0.9, 0.99])
def test_cut_short(small_model: Any, tmp_path: Path, share: float) -> None:
    whole = small_model.path.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        read_model_file(cut)


@pytest.mark.parametrize("content", [b"not a model", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(4096), b"{}"])
def test_another_kind_of_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX model"):
        read_model_file(tmp_path / "other.onnx")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_model_file(tmp_path / "none.onnx")


def test_no_spec(path: Path) -> None:
    edit(path, lambda proto: proto.ClearField("metadata_props"))
    with pytest.raises(ModelError, match="without a cellengine spec"):
        read_model_file(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("{}", "no version"), ('{"spec_version": 99}', "newer"), ('{"spec_version": 1}', "bad spec")],
)
def test_bad_spec(path: Path, text: str, message: str) -> None:
    edit(path, lambda proto: helper.set_model_props(proto, {METADATA_KEY: text}))
    with pytest.raises(ModelError, match=message):
        read_model_file(path)


def test_unknown_operator(path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node[1].op_type = "Sigmund"

    edit(path, change)
    with pytest.raises(ModelError, match="Sigmund"):
        read_model_file(path)


def test_operator_of_an_unknown_domain(path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node[1].domain = "org.example"
        proto.opset_import.append(helper.make_opsetid("org.example", 1))

    edit(path, change)
    with pytest.raises(ModelError, match=r"org\.example::Sigmoid"):
        read_model_file(path)


def test_shapes_that_do_not_fit(path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        weight = proto.graph.initializer[0]
        weight.CopyFrom(helper.make_tensor(weight.name, onnx.TensorProto.FLOAT, [1, 3, 3, 3, 3], [0.0] * 81))

    edit(path, change)
    with pytest.raises(ModelError, match="not a valid ONNX graph"):
        read_model_file(path)


def external(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "weights.bin"])
def test_external_weights_are_never_followed(path: Path, location: str) -> None:
    (path.parent / "weights.bin").write_bytes(bytes(1 << 16))
    edit(path, lambda proto: external(proto.graph.initializer[0], location))
    with pytest.raises(ModelError, match="outside the file"):
        read_model_file(path)


def test_external_constants_inside_branches_are_found(path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        constant = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "hidden")
        external(constant, "../secret.bin")
        inner = helper.make_node("Constant", [], ["inner"], value=constant)
        result = helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [4])
        branch = helper.make_graph([inner], "branch", [], [result])
        condition = helper.make_node("Constant", [], ["condition"], value=helper.make_tensor("c", 9, [], [True]))
        choose = helper.make_node("If", ["condition"], ["chosen"], then_branch=branch, else_branch=branch)
        proto.graph.node.extend([condition, choose])

    edit(path, change)
    with pytest.raises(ModelError, match="outside the file"):
        read_model_file(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ("gray",)}, "image has 3 channels in the graph, its spec says 1"),
        ({"outputs": (Output("foreground"),)}, "outputs are foreground, distance, its spec says foreground"),
        ({"outputs": (Output("foreground"), Output("boundary"))}, "its spec says foreground, boundary"),
        ({"outputs": (Output("foreground"), Output("distance", 2))}, "distance has 1 channels in the graph"),
        (
            {"axes": "ZYX", **dict.fromkeys(("tile", "divisor", "receptive_field", "halo"), (4, 4, 4))},
            "image has 4 axes in the graph, its spec says 5",
        ),
        (
            {
                "task": "classification",
                "decoder": ClassOf(),
                "classes": ("live", "dead"),
                "outputs": (Output("classes", 2),),
            },
            "outputs are foreground, distance, its spec says classes",
        ),
    ],
)
def test_spec_of_another_graph(path: Path, small_spec: Any, changes: dict[str, Any], message: str) -> None:
    spec = small_spec(**changes)
    edit(path, lambda proto: helper.set_model_props(proto, {METADATA_KEY: spec.to_json()}))
    with pytest.raises(ModelError, match=message):
        read_model_file(path)


def test_several_channels_out(tmp_path: Path, write_tiny_model: Write, small_spec: Any) -> None:
    spec = small_spec(task="semantic", decoder=ArgMax(), outputs=(Output("classes", 3),), classes=("a", "b", "c"))
    assert read_model_file(write_tiny_model(tmp_path / "classes.onnx", spec)).spec == spec


def test_forms_belong_to_their_parent(tmp_path: Path, write_tiny_model: Write) -> None:
    parent = read_model_file(write_tiny_model(tmp_path / "tiny.onnx"))
    assert find_form(parent, "int8") is None
    lies = form_path(parent.path, "int8")
    assert lies.name == "tiny.int8.onnx"
    entries = {"cellengine.form": "int8", "cellengine.parent": parent.sha256}
    write_tiny_model(lies, None, **entries)
    form = find_form(parent, "int8")
    assert form is not None
    assert (form.path, form.form, form.parent) == (lies, "int8", parent.sha256)
    assert find_form(form, "int8") is form

    write_tiny_model(lies, None, **{**entries, "cellengine.parent": "0" * 64})
    with pytest.raises(ModelError, match=r"not made from tiny\.onnx"):
        find_form(parent, "int8")


@pytest.mark.parametrize("path", sorted(cellengine.zoo.FOLDER.glob("*.*.onnx")), ids=lambda path: path.name)
def test_a_bundled_form_is_of_its_model_and_passed(path: Path) -> None:
    """Who trains a bundled model anew makes its forms again: `cellengine export --precision fp32,bf16,int8`."""
    assert path.stat().st_size <= 8_000_000
    name, _, form = path.stem.rpartition(".")
    found = find_form(read_model_file(resolve_model(name)), form)
    assert found is not None
    assert found.golden is not None
    assert {p.precision for p in found.spec.parity} <= {form, "fp32"}
    assert found.spec.parity
    assert all(p.passed for p in found.spec.parity)


def test_a_bundled_name_is_its_file(tmp_path: Path, write_tiny_model: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_model(tmp_path / "nuclei.onnx")
    write_tiny_model(tmp_path / "nuclei.int8.onnx")
    write_tiny_model(tmp_path / "wbc.onnx")
    monkeypatch.setattr(cellengine.zoo, "FOLDER", tmp_path)
    assert list(cellengine.zoo.bundled()) == ["nuclei", "wbc"]
    assert resolve_model("nuclei") == tmp_path / "nuclei.onnx"
    with pytest.raises(ModelError, match=r"Unknown model nucleus.*nuclei, wbc"):
        resolve_model("nucleus")
    for missing in ("nucleus.onnx", "./nucleus", tmp_path / "nucleus"):
        with pytest.raises(UsageError, match="does not exist"):
            resolve_model(missing)
    with pytest.raises(UsageError, match="is a folder"):
        resolve_model(tmp_path)


def test_a_path_is_itself(path: Path, small_spec: Any) -> None:
    assert resolve_model(path) == path
    assert resolve_model(str(path)) == path
    assert replace(read_model_file(resolve_model(str(path)))).spec == small_spec()
