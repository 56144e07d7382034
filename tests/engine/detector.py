"""A detector without training and without torch: peaks of a smoothed picture become round objects of one size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cellengine.spec import INPUT_NAME, METADATA_KEY, Detections, ModelSpec, Normalize, Output

SIDE_PX, MASK_PX, MOST = 16, 28, 48
"""of a box, of a mask, and objects in an answer"""


def peak_spec(**changes: Any) -> ModelSpec:
    values: dict[str, Any] = {
        "name": "peaks",
        "task": "detection",
        "axes": "YX",
        "channels": ("signal",),
        "tile": (96, 96),
        "divisor": (8, 8),
        "receptive_field": (8, 8),
        "halo": (24, 24),
        "normalize": Normalize("constant", 0.0, 255.0),
        "outputs": (Output("boxes", 4), Output("scores"), Output("classes"), Output("masks"), Output("count")),
        "decoder": Detections(min_score=0.3, max_iou=0.3),
        "classes": ("dim", "bright"),
        "object_size_px": 20.0,
    }
    return ModelSpec(**{**values, **changes})


def write_peak_model(path: Path, **changes: Any) -> Path:
    """Score: mean of 9 x 9 px, where it is the highest of 17 x 17. Class: `bright` above 0.6. Masks: a disc."""
    spec = peak_spec(**changes)
    at = (np.arange(MASK_PX) + 0.5) / MASK_PX - 0.5
    disc = (np.hypot(at[:, None], at) < 0.5).astype(np.float32)
    corner = np.array([-SIDE_PX / 2, -SIDE_PX / 2, SIDE_PX / 2, SIDE_PX / 2], np.float32) + np.float32(0.5)
    constants = {
        "mean9": np.full((1, 1, 9, 9), 1 / 81, np.float32),
        "disc": disc[None, None],
        "corner": corner,
        "rows": np.array([0, -1]),
        "most": np.array([MOST]),
        "last": np.array(3),
        "one": np.array([1]),
        "two": np.array([2]),
        "pixels": np.array([2, 3]),
        "bright": np.array(0.6, np.float32),
        "any": np.array(0.1, np.float32),
        "ones": np.array(1, np.float32),
        "zero": np.array(0, np.float32),
    }
    make = helper.make_node
    nodes = [
        make("Conv", [INPUT_NAME, "mean9"], ["heat"], pads=[4] * 4),
        make("MaxPool", ["heat"], ["highest"], kernel_shape=[17, 17], pads=[8] * 4),
        make("Equal", ["heat", "highest"], ["is_peak"]),
        make("Where", ["is_peak", "heat", "zero"], ["peaks"]),
        make("Reshape", ["peaks", "rows"], ["flat"]),
        make("TopK", ["flat", "most"], ["scores", "index"], axis=1),
        make("Shape", [INPUT_NAME], ["shape"]),
        make("Gather", ["shape", "last"], ["width"]),
        make("Div", ["index", "width"], ["y"]),
        make("Mod", ["index", "width"], ["x"]),
        make("Unsqueeze", ["y", "two"], ["y2"]),
        make("Unsqueeze", ["x", "two"], ["x2"]),
        make("Concat", ["y2", "x2", "y2", "x2"], ["middle"], axis=2),
        make("Cast", ["middle"], ["centre"], to=onnx.TensorProto.FLOAT),
        make("Add", ["centre", "corner"], ["boxes"]),
        make("Greater", ["scores", "bright"], ["is_bright"]),
        make("Cast", ["is_bright"], ["classes"], to=onnx.TensorProto.FLOAT),
        make("Greater", ["scores", "any"], ["is_any"]),
        make("Cast", ["is_any"], ["found"], to=onnx.TensorProto.FLOAT),
        make("ReduceSum", ["found", "one"], ["count"], keepdims=0),
        make("Mul", ["scores", "zero"], ["nothing"]),
        make("Add", ["nothing", "ones"], ["each"]),
        make("Unsqueeze", ["each", "pixels"], ["each2"]),
        make("Mul", ["each2", "disc"], ["masks"]),
    ]
    float32 = onnx.TensorProto.FLOAT
    image = helper.make_tensor_value_info(INPUT_NAME, float32, ["batch", 1, "height", "width_px"])
    shapes: dict[str, list[Any]] = {
        "boxes": ["batch", MOST, 4],
        "scores": ["batch", MOST],
        "classes": ["batch", MOST],
        "masks": ["batch", MOST, MASK_PX, MASK_PX],
        "count": ["batch"],
    }
    outputs = [helper.make_tensor_value_info(name, float32, shape) for name, shape in shapes.items()]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "peaks", [image], outputs, weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, {METADATA_KEY: spec.to_json()})
    onnx.save(proto, path)
    return path
