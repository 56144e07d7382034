"""An fp32 graph to int8: ranges measured on real pictures, and the layers that must stay in floating point found.

Static quantisation in QDQ form: activations are uint8 with one scale a tensor, weights int8 with one scale a channel
(Jacob et al. 2018; Krishnamoorthi 2018). The arithmetic of the file is what every runtime does in int8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorData, TensorsData

from cellengine.errors import ModelError
from cellengine.export.layers import Layers, find_layers
from cellengine.spec import INPUT_NAME

Array = np.ndarray[Any, Any]
Ranges = Mapping[str, tuple[float, float]]
"""tensor -> smallest and largest value seen"""

COMPARED = 4
"""windows on which the layers are ranked"""


def quantise(proto: onnx.ModelProto, ranges: Ranges, float_layers: Sequence[str] = ()) -> onnx.ModelProto:
    """The int8 graph of `proto` (with named nodes); `float_layers` and the heads compute in fp32.

    Raises ModelError when no layer is left to quantise.
    """
    layers = find_layers(proto, frozenset(float_layers))
    if not layers.weighted:
        raise ModelError("No layer is left that could compute in int8.")
    return _quantised(proto, layers, ranges)


def measure_ranges(proto: onnx.ModelProto, windows: Sequence[Array]) -> Ranges:
    """Smallest and largest value of every tensor that a layer reads or writes.

    `windows` are scaled pictures, float32 (1, C, *sides). All tensors of one window are in memory at once.
    """
    layers = find_layers(proto)
    chosen = {*layers.weighted, *layers.passing}
    stored = {tensor.name for tensor in proto.graph.initializer}
    names = {t for n in proto.graph.node if n.name in chosen for t in (*n.input, *n.output) if t and t not in stored}
    watched = onnx.shape_inference.infer_shapes(proto)
    floats = {v.name for v in watched.graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    inner = sorted(names & floats)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    session = _session(watched)
    low, high = dict.fromkeys((INPUT_NAME, *inner), 0.0), dict.fromkeys((INPUT_NAME, *inner), 0.0)
    for window in windows:
        for name, values in ((INPUT_NAME, window), *zip(inner, session.run(inner, {INPUT_NAME: window}), strict=True)):
            # 0 must be exact in uint8: it is what convolutions are padded with
            low[name], high[name] = min(low[name], float(values.min())), max(high[name], float(values.max()))
    return {name: (low[name], high[name]) for name in low}


def find_int8(
    proto: onnx.ModelProto,
    windows: Sequence[Array],
    passes: Callable[[onnx.ModelProto, tuple[str, ...]], bool],
) -> tuple[str, ...]:
    """The layers that must stay in floating point: as few of the most sensitive ones as it takes for `passes`.

    `proto` has named nodes. `passes` gets an int8 graph and its floating-point layers. First all layers are
    quantised; if that fails they are ranked by what each does to the outputs when it alone is, and 1, 2, 4, ... of the
    worst stay in fp32. Raises ModelError when half of the layers in fp32 are not enough: nothing would be won.
    """
    ranges = measure_ranges(proto, windows)
    heads = find_layers(proto).heads
    if passes(quantise(proto, ranges), heads):
        return heads
    ranked = _most_sensitive_first(proto, ranges, windows[:COMPARED])
    for count in _doubling(len(ranked) // 2):
        worst = ranked[:count]
        if passes(quantise(proto, ranges, worst), (*worst, *heads)):
            return (*worst, *heads)
    raise ModelError(
        f"int8 does not find the same objects even with {len(ranked) // 2} of {len(ranked)} layers in fp32: "
        "leave it out of --precision, or give other pictures with --calibrate."
    )


def _doubling(most: int) -> Iterator[int]:
    count = 1
    while count < most:
        yield count
        count *= 2
    if most:
        yield most


def _most_sensitive_first(proto: onnx.ModelProto, ranges: Ranges, windows: Sequence[Array]) -> list[str]:
    """Layers by how far the outputs move when only that layer is quantised."""
    exact = [_session(proto).run(None, {INPUT_NAME: window}) for window in windows]
    layers = find_layers(proto)
    moved: dict[str, float] = {}
    for name in layers.weighted:
        session = _session(_quantised(proto, Layers((name,), layers.heads, ()), ranges))
        answers = [session.run(None, {INPUT_NAME: window}) for window in windows]
        pairs = [(a, b) for one, other in zip(exact, answers, strict=True) for a, b in zip(one, other, strict=True)]
        moved[name] = float(np.mean([np.square(a - b).mean() for a, b in pairs]))
    return sorted(moved, key=lambda name: -moved[name])


def _quantised(proto: onnx.ModelProto, layers: Layers, ranges: Ranges) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    chosen = [*layers.weighted, *layers.passing]
    kinds = sorted({node.op_type for node in copy.graph.node if node.name in set(chosen)})
    data = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    quantiser = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=chosen,
        nodes_to_exclude=[],
        op_types_to_quantize=kinds,
        extra_options={},
    )
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    model: onnx.ModelProto = quantiser.model.model
    return model


def _session(proto: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; printed as well they would be said twice
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
