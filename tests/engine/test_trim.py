"""A trimmed graph answers the core as the whole graph does, whatever its layers, and computes less where it can."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cellengine.engine.backends.trim import trim, worth_cutting

RNG = np.random.default_rng(0)


class Graph:
    """Writes a model node by node; weights are random."""

    def __init__(self, channels: int = 2) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.channels = {"image": channels}

    def store(self, values: np.ndarray) -> str:
        name = f"stored{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(values, name))
        return name

    def add(self, kind: str, *inputs: str, channels: int | None = None, **attributes: Any) -> str:
        name = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        self.channels[name] = channels or self.channels[inputs[0]]
        return name

    def conv(self, value: str, kernel: int = 3, dilation: int = 1, **attributes: Any) -> str:
        weights = self.store(RNG.normal(0, 0.3, (2, self.channels[value], kernel, kernel)).astype(np.float32))
        settings = {"pads": [(kernel - 1) * dilation // 2] * 4, "dilations": [dilation] * 2} | attributes
        return self.add("Conv", value, weights, channels=2, kernel_shape=[kernel] * 2, **settings)

    def pool(self, value: str, step: int) -> str:
        return self.add("MaxPool", value, kernel_shape=[step] * 2, strides=[step] * 2)

    def enlarge(self, value: str, step: int, kernel: int | None = None) -> str:
        size = kernel or step
        weights = self.store(RNG.normal(0, 0.3, (self.channels[value], 2, size, size)).astype(np.float32))
        pads = [(size - step) // 2] * 4
        return self.add(
            "ConvTranspose", value, weights, channels=2, kernel_shape=[size] * 2, strides=[step] * 2, pads=pads
        )

    def join(self, *values: str) -> str:
        return self.add("Concat", *values, axis=1, channels=sum(self.channels[v] for v in values))

    def model(self, *outputs: str) -> bytes:
        def picture(name: str) -> onnx.ValueInfoProto:
            shape = ["n", self.channels[name], f"{name}h", f"{name}w"]
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(self.nodes, "g", [picture("image")], [picture(o) for o in outputs], self.stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())


def answers(content: bytes, image: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()  # optimised, whole numbers are rounded where layers happen to be joined
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    values: list[np.ndarray] = onnxruntime.InferenceSession(content, options).run(None, {"image": image})
    return values


def voxels_of(content: bytes, image: np.ndarray, kind: str) -> list[int]:
    """How many voxels each layer of that kind computes."""
    proto = onnx.load_model_from_string(content)
    names = [node.output[0] for node in proto.graph.node if node.op_type == kind]
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return [int(np.prod(values.shape[2:])) for values in answers(proto.SerializeToString(), image)]


def check(content: bytes, halo: tuple[int, int], sides: tuple[int, int] = (48, 60)) -> bytes:
    trimmed, cut = trim(content, halo)
    assert cut == halo
    onnx.checker.check_model(trimmed, full_check=True)
    image = RNG.random((2, 2, *sides), dtype=np.float32)
    for whole, core in zip(answers(content, image), answers(trimmed, image), strict=True):
        expected = whole[:, :, halo[0] : sides[0] - halo[0], halo[1] : sides[1] - halo[1]]
        np.testing.assert_allclose(core, expected, atol=1e-5)
    return trimmed


def hourglass(steps: list[int], kernel: int = 3, dilation: int = 1) -> Graph:
    graph, value, skips = Graph(), "image", []
    for step in steps:
        skips.append(graph.add("Relu", graph.conv(value, kernel, dilation)))
        value = graph.pool(skips[-1], step)
    value = graph.conv(value)
    for step in reversed(steps):
        value = graph.join(graph.enlarge(value, step), skips.pop())
        value = graph.add("Relu", graph.conv(value, kernel, dilation))
    graph.add("Sigmoid", graph.conv(value, 1))
    return graph


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 2),
    st.tuples(st.integers(0, 22), st.integers(0, 28)),
)
def test_any_hourglass_and_halo(steps: list[int], kernel: int, dilation: int, halo: tuple[int, int]) -> None:
    graph = hourglass(steps, kernel, dilation)
    check(graph.model(graph.nodes[-1].output[0]), halo, (72, 72))


def test_layers_behind_the_coarsest_compute_the_core_and_what_they_see_around_it() -> None:
    """Of 64 px with a halo of 20 the core is 24 px, and two convolutions see 2 px more: 14 px on the coarse grid."""
    graph = hourglass([2])
    content = graph.model(graph.nodes[-1].output[0])
    image = RNG.random((1, 2, 64, 64), dtype=np.float32)
    trimmed = check(content, (20, 20), (64, 64))
    assert voxels_of(content, image, "Conv") == [64 * 64, 32 * 32, 64 * 64, 64 * 64]
    assert voxels_of(trimmed, image, "Conv") == [64 * 64, 32 * 32, 28 * 28, 28 * 28]
    assert voxels_of(trimmed, image, "ConvTranspose") == [28 * 28]


def test_a_mean_over_the_tile_sees_all_of_it() -> None:
    """Gates as in squeeze-and-excitation: what goes into the mean is not cut, and the gate is no picture to be cut."""
    graph = Graph()
    gate = graph.add("Sigmoid", graph.add("GlobalAveragePool", graph.conv("image")))
    up = graph.enlarge(graph.pool(graph.conv("image"), 2), 2)
    gated = graph.conv(graph.add("Mul", up, gate))
    again = graph.add("Mul", gated, graph.add("GlobalAveragePool", gated))
    check(graph.model(again), (10, 12))
    check(graph.model(gated), (10, 12))


@pytest.mark.parametrize("unknown", ["resize", "strides", "overlap", "even", "softmax", "shifted"])
def test_layers_that_are_not_understood(unknown: str) -> None:
    graph = Graph()
    up = graph.enlarge(graph.pool(graph.conv("image"), 2), 2)
    if unknown == "resize":
        scales = graph.store(np.array([1, 1, 2, 2], np.float32))
        up = graph.add("Resize", graph.pool(up, 2), "", scales, mode="linear", channels=2)
    elif unknown == "strides":
        up = graph.enlarge(graph.conv(up, strides=[2, 2]), 2)
    elif unknown == "overlap":
        up = graph.enlarge(graph.pool(up, 2), 2, kernel=4)
    elif unknown == "even":
        up = graph.conv(up, 2, pads=[0, 0, 1, 1])
    elif unknown == "softmax":
        up = graph.add("Softmax", up, axis=3)
    else:
        up = graph.add("Add", up, graph.store(RNG.random((1, 2, 48, 60), dtype=np.float32)))
    check(graph.model(graph.conv(up)), (14, 9))


def test_what_nobody_reads_is_left_out() -> None:
    graph = hourglass([2])
    value = graph.nodes[-1].output[0]
    graph.add("Softmax", graph.nodes[4].output[0], axis=3)
    trimmed = check(graph.model(value), (20, 20), (64, 64))
    assert "Softmax" not in {node.op_type for node in onnx.load_model_from_string(trimmed).graph.node}
    image = RNG.random((1, 2, 64, 64), dtype=np.float32)
    assert voxels_of(trimmed, image, "ConvTranspose") == [28 * 28]


def test_several_outputs_and_one_that_is_read_again() -> None:
    graph = hourglass([2, 2])
    value = graph.nodes[-1].output[0]
    other = graph.conv(value)
    inner = graph.nodes[-4].output[0]
    check(graph.model(value, other, inner), (16, 8))


def test_an_output_that_is_joined_again() -> None:
    graph = Graph()
    first = graph.conv("image")
    check(graph.model(first, graph.conv(graph.join(graph.enlarge(graph.pool(first, 2), 2), first))), (12, 9))


def test_branches_are_left_alone() -> None:
    """What the body of an If reads is read by nobody else."""
    graph = hourglass([2])
    value = graph.nodes[-1].output[0]
    bodies = {}
    for name, kind in (("then_branch", "Relu"), ("else_branch", "Neg")):
        made = helper.make_tensor_value_info(f"{name}_made", TensorProto.FLOAT, None)
        bodies[name] = helper.make_graph([helper.make_node(kind, [value], [made.name])], name, [], [made])
    chosen = graph.add("If", graph.store(np.array(True)), channels=2, **bodies)
    content = graph.model(chosen)
    assert trim(content, (8, 8)) == (content, (0, 0))


def test_scales_stay_beside_their_layers() -> None:
    """int8: a layer reads whole numbers with their scale right before it, also behind a cut."""
    graph = Graph()
    scale, zero = graph.store(np.float32(0.01)), graph.store(np.uint8(100))

    def rounded(value: str) -> str:
        return graph.add("DequantizeLinear", graph.add("QuantizeLinear", value, scale, zero), scale, zero)

    skip = rounded(graph.conv(rounded("image")))
    value = rounded(graph.conv(graph.join(graph.enlarge(rounded(graph.pool(skip, 2)), 2), skip)))
    trimmed = onnx.load_model_from_string(check(graph.model(value), (12, 12)))
    makers = {name: node.op_type for node in trimmed.graph.node for name in node.output}
    layers = [node for node in trimmed.graph.node if node.op_type == "ConvTranspose"]
    assert [makers[node.input[0]] for node in layers] == ["DequantizeLinear"]
    joined = next(node for node in trimmed.graph.node if node.op_type == "Concat")
    assert [makers[name] for name in joined.input] == ["ConvTranspose", "DequantizeLinear"]


def test_heads_of_one_value_are_one_layer() -> None:
    graph = hourglass([2])
    value = graph.nodes[-2].input[0]
    heads = [graph.conv(value, 1), graph.conv(value, 1), graph.conv(value, 3), graph.conv(value)]
    outputs = [graph.add("Sigmoid", heads[0]), *heads[1:], graph.nodes[-8].output[0]]

    def layers(content: bytes) -> int:
        return sum(node.op_type == "Conv" for node in onnx.load_model_from_string(content).graph.node)

    assert layers(check(graph.model(*outputs), (10, 10))) == 3 + 4, "without biases they stay as they are"
    for node in graph.nodes:
        if node.op_type == "Conv":
            node.input.append(graph.store(RNG.random(2).astype(np.float32)))
    assert layers(check(graph.model(*outputs), (10, 10))) == 3 + 2, "three layers, a head of 1 x 1 and one of 3 x 3"


def test_cuts_are_made_where_they_save_more_than_they_cost() -> None:
    assert worth_cutting((96, 96), (1024, 1024)) == (96, 96)
    assert worth_cutting((96, 96), (2304, 2304)) == (0, 0)
    assert worth_cutting((24, 48, 48), (176, 304, 224)) == (24, 48, 48)
    assert worth_cutting((0, 0), (64, 64)) == (0, 0)
