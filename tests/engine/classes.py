"""Models without training that tell classes apart: of every pixel by its brightness, of a crop by its mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cellengine.spec import INPUT_NAME, METADATA_KEY, ArgMax, ClassOf, ModelSpec, Normalize, Output

LEVELS = (("dark", 0.0), ("middle", 0.5), ("bright", 1.0))
"""class -> brightness that it is surest of"""


def class_spec(axes: str, **changes: Any) -> ModelSpec:
    """One channel, scaled by 0 ... 200, three classes."""
    dims = len(axes)
    values: dict[str, Any] = {
        "name": "levels",
        "task": "semantic",
        "axes": axes,
        "channels": ("signal",),
        "tile": (32,) * dims,
        "divisor": (4,) * dims,
        "receptive_field": (1,) * dims,
        "halo": (1,) * dims,
        "normalize": Normalize("constant", 0.0, 200.0),
        "outputs": (Output("classes", len(LEVELS)),),
        "decoder": ArgMax(),
        "classes": tuple(name for name, _ in LEVELS),
    }
    return ModelSpec(**{**values, **changes})


def write_class_model(path: Path, axes: str = "YX", **changes: Any) -> Path:
    """Softmax of -40 (v - level)^2 for v a box mean of 3 px of all channels; for a crop, v its mean.

    With v squared left out, as it is the same for every class: 80 level v - 40 level^2, a convolution.
    """
    task = changes.get("task", "semantic")
    if task == "classification":
        changes = {"decoder": ClassOf(), "receptive_field": (0,) * len(axes), "halo": (0,) * len(axes), **changes}
    spec = class_spec(axes, **changes)
    dims = len(axes)
    levels = np.array([level for _, level in LEVELS], np.float32)
    channels = len(spec.channels)
    kernel = np.full((len(LEVELS), channels, *(3,) * dims), 1 / 3**dims / channels, np.float32) * (80 * levels).reshape(
        -1, 1, *(1,) * dims
    )
    weights = [
        numpy_helper.from_array(kernel.astype(np.float32), "kernel"),
        numpy_helper.from_array((-40 * levels**2).astype(np.float32), "bias"),
    ]
    nodes = [helper.make_node("Conv", [INPUT_NAME, "kernel", "bias"], ["map"], pads=[1] * (2 * dims))]
    sides = [f"side{i}" for i in range(dims)]
    if task == "classification":
        weights.append(numpy_helper.from_array(np.arange(2, 2 + dims), "axes"))
        nodes.append(helper.make_node("ReduceMean", ["map", "axes"], ["logit"], keepdims=0))
        shape: list[Any] = ["batch", len(LEVELS)]
    else:
        nodes.append(helper.make_node("Identity", ["map"], ["logit"]))
        shape = ["batch", len(LEVELS), *sides]
    nodes.append(helper.make_node("Softmax", ["logit"], ["classes"], axis=1))
    image = helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.FLOAT, ["batch", channels, *sides])
    classes = helper.make_tensor_value_info("classes", onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "levels", [image], [classes], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, {METADATA_KEY: spec.to_json()})
    onnx.save(proto, path)
    return path
