"""An fp32 graph to fp16: layers and what passes between them in half, scores and all other arithmetic in fp32.

The input and the outputs stay float32. BatchNorm is folded into the weights before this, in fp32; other norms are no
layers and so stay in fp32 between two casts.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cellengine.errors import ModelError
from cellengine.export.layers import find_layers, flowing, name_nodes

LARGEST = float(np.finfo(np.float16).max)


def to_half(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The graph in fp16, and the names of the layers that stay in fp32.

    Raises ModelError for weights that fp16 cannot hold and for a graph that has no layer to convert.
    """
    model = name_nodes(proto)
    layers = find_layers(model)
    half_nodes = {*layers.weighted, *layers.passing}
    if not layers.weighted:
        raise ModelError("The graph has no layer that could compute in fp16.")
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    made_half = {name for node in model.graph.node if node.name in half_nodes for name in node.output}
    nodes: list[onnx.NodeProto] = []
    made: set[str] = set()
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if node.name not in half_nodes:
                if name in made_half:
                    node.input[position] = _cast(nodes, made, name, TensorProto.FLOAT, "float")
            elif name in flowing(node):
                if name not in made_half:
                    node.input[position] = _cast(nodes, made, name, TensorProto.FLOAT16, "half")
            elif name in weights and node.name in layers.weighted:
                node.input[position] = _half_weight(model, weights[name], made)
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    _drop_unused(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return model, layers.heads


def _cast(nodes: list[onnx.NodeProto], made: set[str], name: str, kind: int, suffix: str) -> str:
    """The name under which `name` is there in `kind`; the cast is added once."""
    converted = f"{name}.{suffix}"
    if converted not in made:
        made.add(converted)
        nodes.append(helper.make_node("Cast", [name], [converted], name=f"{converted}.cast", to=kind))
    return converted


def _half_weight(model: onnx.ModelProto, weight: TensorProto, made: set[str]) -> str:
    converted = f"{weight.name}.half"
    if converted not in made:
        made.add(converted)
        values = numpy_helper.to_array(weight)
        if np.abs(values).max(initial=0.0) > LARGEST:
            raise ModelError(f"The weights {weight.name} exceed {LARGEST:g}, which fp16 cannot hold: leave fp16 out.")
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), converted))
    return converted


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)
