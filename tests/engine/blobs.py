"""A model without training and without torch that finds bright cells: a few ONNX nodes with chosen numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cellengine.spec import INPUT_NAME, METADATA_KEY, DistanceWatershed, ModelSpec, Normalize, Output


def blob_spec(axes: str = "YX", **changes: Any) -> ModelSpec:
    """The spec of the model below: one channel, receptive field of 4 px."""
    dims = len(axes)
    values: dict[str, Any] = {
        "name": "blobs",
        "task": "instances",
        "axes": axes,
        "channels": ("signal",),
        "tile": (128,) * dims,
        "divisor": (4,) * dims,
        "receptive_field": (4,) * dims,
        "halo": (4,) * dims,
        "normalize": Normalize("percentile", 1.0, 99.5, clip=(0.0, 1.0)),
        "outputs": (Output("foreground"), Output("distance")),
        "decoder": DistanceWatershed(smoothing_px=1.0, h=0.05, min_size_px=5),
        "classes": ("cell",),
        "object_size_px": 20.0,
    }
    return ModelSpec(**{**values, **changes})


def write_blob_model(path: Path, axes: str = "YX", **changes: Any) -> Path:
    """Foreground: a box mean of 3 px through a steep sigmoid. Distance: a box mean of 9 px of the same."""
    spec = blob_spec(axes, **changes)
    dims = len(axes)
    small = np.full((1, 1, *(3,) * dims), 1 / 3**dims, np.float32)
    large = np.full((1, 1, *(7,) * dims), 1 / 7**dims, np.float32)
    weights = [
        numpy_helper.from_array(small, "small"),
        numpy_helper.from_array(large, "large"),
        numpy_helper.from_array(np.array([20.0], np.float32), "gain"),
        numpy_helper.from_array(np.array([-5.0], np.float32), "shift"),
    ]
    nodes = [
        helper.make_node("Conv", [INPUT_NAME, "small"], ["mean"], pads=[1] * (2 * dims)),
        helper.make_node("Mul", ["mean", "gain"], ["steep"]),
        helper.make_node("Add", ["steep", "shift"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["foreground"]),
        helper.make_node("Conv", ["foreground", "large"], ["distance"], pads=[3] * (2 * dims)),
    ]
    sides = [f"side{i}" for i in range(dims)]
    values = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 1, *sides])
        for name in (INPUT_NAME, "foreground", "distance")
    }
    graph = helper.make_graph(nodes, "blobs", [values[INPUT_NAME]], [values["foreground"], values["distance"]], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, {METADATA_KEY: spec.to_json()})
    onnx.save(proto, path)
    return path
