"""Which nodes of an ONNX graph may compute in fewer bits: layers with weights, and what hands their answers on.

Scores, boxes and everything that ranks or decodes them stay in fp32 in every precision: the last layers before the
outputs, and all arithmetic that is not between two layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""layers, when their weights are stored in the file"""
PASSING = frozenset(
    {
        "Add", "AveragePool", "Concat", "Flatten", "Identity", "LeakyRelu", "MaxPool", "Relu", "Reshape", "Resize",
        "Slice", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""what follows a layer in the same number of bits, when all that comes in does"""


@dataclass(frozen=True, slots=True)
class Layers:
    """The nodes of a graph by what they may compute in, by name, in the order of the graph."""

    weighted: tuple[str, ...]
    """layers whose answers other layers refine"""
    heads: tuple[str, ...]
    """the last layers before the outputs: they give scores, and stay in fp32"""
    passing: tuple[str, ...]
    """nodes that only hand on what `weighted` ones answered"""


def name_nodes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node of the graph has a name of its own, so that layers can be listed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    taken: set[str] = set()
    for number, node in enumerate(copy.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}"
        taken.add(node.name)
    return copy


def find_layers(proto: onnx.ModelProto, without: frozenset[str] = frozenset()) -> Layers:
    """Sort the nodes of `proto` (with names, see `name_nodes`); layers named in `without` count as fp32."""
    graph = proto.graph
    stored = {tensor.name for tensor in graph.initializer}
    names = {node.name for node in graph.node if node.op_type in WEIGHTED and set(node.input[1:2]) & stored}
    heads = set(_last_layers(graph, names))
    fixed = {name for node in graph.node for name in _used_by_bodies(node)}
    low: set[str] = set()
    found: list[str] = []
    for node in graph.node:
        if node.name in names:
            fits = node.name not in heads and node.name not in without
        else:
            flows = flowing(node)
            fits = node.op_type in PASSING and bool(flows) and all(name in low for name in flows)
        # what the body of an If or Loop takes from outside must keep its kind
        if fits and not fixed.intersection(node.output):
            low.update(node.output)
            found.append(node.name)
    return Layers(
        tuple(name for name in found if name in names),
        tuple(node.name for node in graph.node if node.name in heads),
        tuple(name for name in found if name not in names),
    )


def flowing(node: onnx.NodeProto) -> list[str]:
    """The inputs of a node that carry its picture; shapes, scales and the second operand of layers are left out."""
    several = node.op_type in ("Add", "Concat")
    return [name for name in node.input if name] if several else list(node.input[:1])


def _last_layers(graph: onnx.GraphProto, layers: set[str]) -> Iterator[str]:
    """Layers from which an output is reached without passing another one."""
    maker = {name: node for node in graph.node for name in node.output}
    waiting, seen = [output.name for output in graph.output], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in maker:
            continue
        seen.add(name)
        node = maker[name]
        if node.name in layers:
            yield node.name
        else:
            waiting.extend(node.input)
            waiting.extend(_used_by_bodies(node))


def _used_by_bodies(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors that the bodies of an If or Loop read."""
    for attribute in node.attribute:
        for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in body.node:
                yield from inner.input
                yield from _used_by_bodies(inner)
