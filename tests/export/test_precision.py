"""fp16 and int8: what is converted and what is not, that it still finds the same cells, and that a bad form is none."""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import tifffile
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from cellengine.engine.backends import BACKENDS, available, hardware, open_session
from cellengine.engine.backends.whole_numbers import cutting_whole_numbers, with_signs
from cellengine.engine.golden import check_golden
from cellengine.engine.infer import infer_array
from cellengine.engine.model_file import read_model_file
from cellengine.errors import DeviceError, ModelError, UsageError
from cellengine.export.checkpoint import export_checkpoint, export_file
from cellengine.export.graph import to_onnx
from cellengine.export.half import to_half
from cellengine.export.layers import find_layers, name_nodes
from cellengine.export.precision import windows
from cellengine.export.quantise import find_int8, measure_ranges, quantise
from cellengine.metrics import evaluate_instances
from cellengine.models import build
from tests.models.test_families import FAMILIES, spec_of
from tests.synthetic import draw_cells, write_annotated

Array = np.ndarray[Any, Any]


needs_int8 = pytest.mark.skipif(not hardware.exact_int8(), reason="this processor has no VNNI instructions")


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with every form that can be verified on this processor."""
    path = tmp_path_factory.mktemp("forms") / "tiny.onnx"
    forms = ("fp32", "fp16", "int8") if hardware.exact_int8() else ("fp32", "fp16")
    export_checkpoint(checkpoint, path, forms, None, lambda line: None)
    return path


@needs_int8
def test_forms_lie_beside_their_parent_and_find_the_same_cells(exported: Path) -> None:
    parent = read_model_file(exported)
    assert sorted(p.name for p in exported.parent.iterdir()) == ["tiny.fp16.onnx", "tiny.int8.onnx", "tiny.onnx"]
    picture, _ = draw_cells((90, 110), 20, seed=50)
    with open_session(exported, device="cpu", backend="onnxruntime", precision="fp32") as session:
        expected = infer_array(picture[None], session).labels
    assert expected.max() > 5
    for backend in ("onnxruntime", "openvino"):
        with open_session(exported, device="cpu", backend=backend, precision="int8") as session:
            assert (session.backend, session.precision) == (backend, "int8")
            found = infer_array(picture[None], session).labels
            assert check_golden(session, parent.golden).passed  # type: ignore[arg-type]
        assert evaluate_instances(expected, found, (0.8,)).at(0.8).f1 >= 0.99
    for form in ("fp16", "int8"):
        file = read_model_file(exported.with_name(f"tiny.{form}.onnx"))
        assert (file.form, file.parent) == (form, parent.sha256)
        assert all(p.passed and p.precision == form for p in file.spec.parity)
        assert [p.emulated for p in file.spec.parity] == ([True] if form == "fp16" else [False, False])
        assert len(file.spec.float_layers) >= 2, "the heads"


def test_fp16_that_was_only_checked_in_its_graph_runs_nowhere_yet(exported: Path) -> None:
    form = read_model_file(exported.with_name("tiny.fp16.onnx"))
    assert all(candidate.problem for candidate in available(form))


def test_a_model_file_gets_its_forms_later(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    verify_on = str(write_annotated(tmp_path / "pictures", 6))
    lines: list[str] = []
    export_file(exported, tmp_path / "copy.onnx", ("fp32", "fp16"), verify_on, lines.append)
    assert (tmp_path / "copy.onnx").read_bytes() == exported.read_bytes()
    assert read_model_file(tmp_path / "copy.fp16.onnx").parent == read_model_file(exported).sha256
    assert any(line.startswith("fp16 onnxruntime, its graph in fp32 arithmetic: passed") for line in lines)
    with pytest.raises(UsageError, match="--verify-on"):
        export_file(exported, tmp_path / "copy.onnx", ("fp32", "fp16"), None, lines.append)
    with pytest.raises(UsageError, match="exported and verified in fp32 already"):
        export_file(exported, tmp_path / "copy.onnx", ("fp32",), verify_on, lines.append)


@pytest.mark.skipif("bf16" not in BACKENDS["openvino"]().precisions("cpu"), reason="the processor has no bf16")
def test_a_model_file_is_verified_in_another_precision_later(exported: Path, tmp_path: Path) -> None:
    verify_on = str(write_annotated(tmp_path / "pictures", 6))
    copy = tmp_path / "copy.onnx"
    spec = export_file(exported, copy, ("fp32", "bf16"), verify_on, lambda line: None)
    before, after = read_model_file(exported), read_model_file(copy)
    assert spec == after.spec
    assert after.spec.precisions == ("fp32", "bf16")
    assert after.spec.parity[: len(before.spec.parity)] == before.spec.parity
    a, b = (onnx.load_model_from_string(file.content).graph for file in (before, after))
    assert a == b
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.onnx", "pictures"]


@needs_int8
def test_int8_that_finds_other_cells_leaves_no_file(checkpoint: Path, tmp_path: Path) -> None:
    """The fault is real: calibrated on black pictures, every activation is cut off."""
    dark = tmp_path / "dark"
    dark.mkdir()
    tifffile.imwrite(dark / "black.tif", np.zeros((64, 64), np.uint8))
    out = tmp_path / "out"
    with pytest.raises(ModelError, match=r"int8 does not find the same objects even with \d of \d+ layers in fp32"):
        export_checkpoint(checkpoint, out / "tiny.onnx", ("fp32", "int8"), None, lambda line: None, str(dark))
    assert list(out.iterdir()) == []


@pytest.mark.skipif(platform.machine().lower() in ("arm64", "aarch64"), reason="ARM adds 8-bit products in 32 bits")
def test_int8_that_cannot_be_verified_here_is_refused(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_on = str(write_annotated(tmp_path / "pictures", 4))
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(DeviceError, match="int8 cannot be verified here: the processor has no VNNI instructions"):
        export_file(exported, tmp_path / "out" / "copy.onnx", ("fp32", "int8"), verify_on, lambda line: None)
    assert list((tmp_path / "out").iterdir()) == []


def graph(nodes: list[Any], weights: dict[str, Array], channels: int, outputs: tuple[str, ...]) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", channels, "y", "x"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None, "y", "x"]) for name in outputs]
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    made = helper.make_graph(nodes, "g", [image], values, stored)
    return name_nodes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def run(proto: onnx.ModelProto, image: Array) -> list[Array]:
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    answers: list[Array] = session.run(None, {"image": image})
    return answers


@pytest.fixture
def detector() -> onnx.ModelProto:
    """As in a detector: a feature map, a shortcut, and boxes decoded from the last layer's offsets."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "b"], ["d"], name="shortcut"),
        helper.make_node("Conv", ["d", "w3"], ["offsets"], name="head"),
        helper.make_node("Mul", ["offsets", "size"], ["scaled"], name="decode"),
        helper.make_node("Add", ["scaled", "anchor"], ["boxes"], name="place"),
    ]
    weights = {
        "w1": random.normal(0, 0.4, (4, 2, 3, 3)),
        "w2": random.normal(0, 0.2, (4, 4, 3, 3)),
        "w3": random.normal(0, 0.3, (1, 4, 1, 1)),
        "size": np.array([32.0]),
        "anchor": np.array([1000.1]),
    }
    return graph(nodes, weights, 2, ("boxes",))


def test_scores_and_the_arithmetic_behind_them_stay_in_fp32(detector: onnx.ModelProto) -> None:
    layers = find_layers(detector)
    assert layers.weighted == ("first", "second")
    assert layers.heads == ("head",)
    assert layers.passing == ("relu", "shortcut")
    image = np.random.default_rng(1).random((1, 2, 16, 16), dtype=np.float32)
    (exact,) = run(detector, image)
    half, kept = to_half(detector)
    assert kept == ("head",)
    (found,) = run(half, image)
    assert found.dtype == np.float32
    # 1000.1 in fp16 is 1000: decoded in half, the boxes would be off by 0.1 and more
    assert 0 < np.abs(found - exact).max() < 0.08
    types = {t.name: t.data_type for t in half.graph.initializer}
    assert types["w1.half"] == types["w2.half"] == TensorProto.FLOAT16
    assert types["w3"] == types["anchor"] == TensorProto.FLOAT
    assert "w1" not in types


def test_weights_that_fp16_cannot_hold_are_refused(detector: onnx.ModelProto) -> None:
    weight = next(t for t in detector.graph.initializer if t.name == "w2")
    weight.CopyFrom(numpy_helper.from_array(np.full((4, 4, 3, 3), 1e5, np.float32), "w2"))
    with pytest.raises(ModelError, match="w2 exceed 65504"):
        to_half(detector)


def test_the_layer_that_int8_spoils_is_found(detector: onnx.ModelProto) -> None:
    """The second layer reads a faint channel beside a glaring one: one scale for both leaves nothing of the faint."""
    random = np.random.default_rng(2)
    first = np.zeros((2, 2, 1, 1))
    first[0, 0], first[1, 1] = 300.0, 1.0
    second = np.zeros((2, 2, 3, 3))
    second[:, 1] = random.normal(0, 0.5, (2, 3, 3))
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], name="glare"),
        helper.make_node("Conv", ["a", "w2"], ["b"], name="faint", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["b"], ["c"], name="relu"),
        helper.make_node("Conv", ["c", "w3"], ["d"], name="third", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["d", "w4"], ["e"], name="fourth"),
        helper.make_node("Conv", ["e", "w5"], ["out"], name="head"),
    ]
    weights = {
        "w1": first,
        "w2": second,
        "w3": random.normal(0, 0.3, (2, 2, 3, 3)),
        "w4": random.normal(0, 0.7, (2, 2, 1, 1)),
        "w5": random.normal(0, 0.7, (1, 2, 1, 1)),
    }
    proto = graph(nodes, weights, 2, ("out",))
    pictures = [np.random.default_rng(s).random((1, 2, 32, 32), dtype=np.float32) for s in range(3)]
    exact = run(proto, pictures[0])[0]

    def passes(candidate: onnx.ModelProto, float_layers: tuple[str, ...]) -> bool:
        return bool(np.abs(run(candidate, pictures[0])[0] - exact).max() < 0.05 * np.ptp(exact))

    assert not passes(quantise(proto, measure_ranges(proto, pictures)), ())
    # the tensor between them must not be quantised, so neither may compute in int8
    assert set(find_int8(proto, pictures, passes)) == {"glare", "faint", "head"}


def test_ranges_are_those_of_the_pictures(detector: onnx.ModelProto) -> None:
    pictures = [np.random.default_rng(s).normal(0, 1, (1, 2, 16, 16)).astype(np.float32) for s in range(3)]
    ranges = measure_ranges(detector, pictures)
    assert ranges["image"] == (min(float(p.min()) for p in pictures), max(float(p.max()) for p in pictures))
    assert ranges["b"][0] == 0
    assert ranges["b"][1] == pytest.approx(ranges["a"][1])


def test_volumes_compute_in_int8(tmp_path: Path) -> None:
    """A 3D network in both runtimes: layers, poolings and joins of three axes have int8 kernels, too."""
    config, task = FAMILIES["unet-3d"]
    torch.manual_seed(1)
    proto = name_nodes(to_onnx(build(config).eval(), spec_of(config, task)))
    random = np.random.default_rng(0)
    pictures = [random.random((1, 1, 16, 32, 32), dtype=np.float32) for _ in range(2)]
    (exact,) = run(proto, pictures[0])
    low = quantise(proto, measure_ranges(proto, pictures))
    assert sum(node.op_type == "DequantizeLinear" for node in low.graph.node) > 20
    (found,) = run(low, pictures[0])
    compiled = openvino.Core().compile_model(openvino.Core().read_model(low.SerializeToString()), "CPU")
    for answer in (found, compiled(pictures[0])[0]):
        assert 0 < np.abs(answer - exact).max() < 0.1


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("kind", ["unet-2d", "unet-3d"])
def test_joins_read_whole_numbers_of_one_scale(kind: str, centred: bool) -> None:
    """A skip connection costs a copy of bytes; the answer is that of the same graph with floats in between."""
    config, task = FAMILIES[kind]
    torch.manual_seed(1)
    proto = name_nodes(to_onnx(build(config).eval(), spec_of(config, task)))
    sides = (32, 32) if kind == "unet-2d" else (16, 32, 32)
    channels = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    picture = np.random.default_rng(0).random((1, channels, *sides), dtype=np.float32)
    low = quantise(proto, measure_ranges(proto, [picture]), centred=centred)
    onnx.checker.check_model(low, full_check=True)
    makers = {name: node for node in low.graph.node for name in node.output}
    joins = [node for node in low.graph.node if node.op_type == "Concat"]
    assert joins
    read = {name for node in low.graph.node for name in node.input} | {output.name for output in low.graph.output}
    assert all(read.intersection(node.output) for node in low.graph.node), "nothing is made for nobody"
    again = onnx.ModelProto()
    again.CopyFrom(low)
    for join in joins:
        parts = [makers[name] for name in join.input]
        assert {part.op_type for part in parts} == {"QuantizeLinear"}
        (reader,) = [node for node in low.graph.node if join.output[0] in node.input]
        assert reader.op_type == "DequantizeLinear"
        stored = {t.name: float(numpy_helper.to_array(t)) for t in low.graph.initializer if not t.dims}
        assert len({tuple(stored[name] for name in node.input[1:]) for node in (*parts, reader)}) == 1
        place = [node.name for node in again.graph.node].index(join.name)
        floats = again.graph.node[place]
        scales = reader.input[1:]
        for i, name in enumerate(join.input):
            again.graph.node.insert(
                place, onnx.helper.make_node("DequantizeLinear", [name, *scales], [f"{name}_float"])
            )
            floats.input[i] = f"{name}_float"
        floats.output[0] = f"{join.name}_floats"
        rounded = onnx.helper.make_node("QuantizeLinear", [floats.output[0], *scales], [join.output[0]])
        again.graph.node.insert(place + len(parts) + 1, rounded)
    for found, expected in zip(run(low, picture), run(again, picture), strict=True):
        np.testing.assert_allclose(found, expected, atol=0.02)
    for found, expected in zip(run(low, picture), run(proto, picture), strict=True):
        np.testing.assert_allclose(found, expected, atol=0.1)


def test_whole_numbers_are_written_as_runtimes_want_them() -> None:
    """The same answers to the bit: signed around 0, other zero points and those of weights stay; cut when rounded."""
    config, task = FAMILIES["unet-2d"]
    torch.manual_seed(1)
    proto = name_nodes(to_onnx(build(config).eval(), spec_of(config, task)))
    picture = np.random.default_rng(0).normal(0, 0.5, (1, 2, 32, 32)).astype(np.float32)
    low = quantise(proto, measure_ranges(proto, [picture]), centred=True)
    signed = onnx.load_model_from_string(with_signs(low.SerializeToString()))
    onnx.checker.check_model(signed, full_check=True)

    def zeros(graph: onnx.GraphProto) -> list[tuple[int, int]]:
        stored = {tensor.name: tensor for tensor in graph.initializer}
        read = [stored[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
        return [(tensor.data_type, int(numpy_helper.to_array(tensor))) for tensor in read]

    before, after = zeros(low.graph), zeros(signed.graph)
    assert {(TensorProto.UINT8, 128), (TensorProto.UINT8, 0)} == set(before)
    assert after == [(TensorProto.INT8, 0) if pair[1] == 128 else pair for pair in before]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = low.SerializeToString()
    cut = cutting_whole_numbers(content)
    kinds = [Counter(n.op_type for n in onnx.load_model_from_string(c).graph.node) for c in (content, cut)]
    assert kinds[0]["Relu"] == kinds[1]["Max"] > kinds[1]["Relu"] == 0
    answers = [
        onnxruntime.InferenceSession(graph, options).run(None, {"image": picture})
        for graph in (content, signed.SerializeToString(), cut)
    ]
    for unsigned, *others in zip(*answers, strict=True):
        for found in others:
            np.testing.assert_array_equal(found, unsigned)


def test_windows_fit_the_network() -> None:
    pictures = [np.random.default_rng(0).random((3, *shape)) for shape in ((500, 300), (20, 7), (16, 16))]
    found = windows(pictures, (16, 16))
    assert [w.shape for w in found] == [(1, 3, 256, 256), (1, 3, 16, 16), (1, 3, 16, 16)]
    np.testing.assert_array_equal(found[0][0], pictures[0][:, 122:378, 22:278].astype(np.float32))
    with pytest.raises(ModelError, match="--calibrate"):
        windows([], (16, 16))
