"""An fp32 graph to int8: ranges measured on real pictures, and the layers that must stay in floating point found.

Static quantisation in QDQ form: activations are uint8 with one scale a tensor, weights int8 with one scale a channel
(Jacob et al. 2018; Krishnamoorthi 2018). The arithmetic of the file is what every runtime does in int8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
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
"""windows on which layers are compared"""


def quantise(
    proto: onnx.ModelProto, ranges: Ranges, float_layers: Sequence[str] = (), *, centred: bool = False
) -> onnx.ModelProto:
    """The int8 graph of `proto` (with named nodes); `float_layers` and the heads compute in fp32.

    `centred`: where values may be negative, 0 is the middle of the whole numbers. Some of them are then never used, but
    the layers that read them need no correction for the zero point, which takes a tenth of a U-Net's time.

    Raises ModelError when no layer is left to quantise.
    """
    layers = find_layers(proto, frozenset(float_layers))
    if not layers.weighted:
        raise ModelError("No layer is left that could compute in int8.")
    return _quantised(proto, layers, ranges, centred)


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
    quantised, centred if that will do; if it fails, 1, 2, 4, ... of them stay in fp32, each time those that bring the
    outputs closest to what they were. Raises ModelError when half of the layers in fp32 are not enough:
    nothing would be won.
    """
    ranges = measure_ranges(proto, windows)
    layers = find_layers(proto)
    if any(passes(quantise(proto, ranges, centred=centred), layers.heads) for centred in (True, False)):
        return layers.heads
    ranked = _most_harmful_first(proto, ranges, windows[:COMPARED])
    kept: list[str] = []
    for count in _doubling(len(layers.weighted) // 2):
        kept += islice(ranked, count - len(kept))
        if passes(quantise(proto, ranges, kept), (*kept, *layers.heads)):
            return (*kept, *layers.heads)
    raise ModelError(
        f"int8 does not find the same objects even with {len(kept)} of {len(layers.weighted)} layers in fp32: "
        "leave it out of --precision, or give other pictures with --calibrate."
    )


def _doubling(most: int) -> Iterator[int]:
    count = 1
    while count < most:
        yield count
        count *= 2
    if most:
        yield most


def _most_harmful_first(proto: onnx.ModelProto, ranges: Ranges, windows: Sequence[Array]) -> Iterator[str]:
    """Layers by what it wins to keep them in fp32 beside those before: errors of layers add up and cancel.

    Each is found when it is asked for, by trying every one that is left.
    """
    exact = [_session(proto).run(None, {INPUT_NAME: window}) for window in windows]
    kept: list[str] = []
    left = list(find_layers(proto).weighted)

    def error(name: str) -> float:
        """Mean square of how far the outputs are moved with `name` in fp32, too."""
        layers = find_layers(proto, frozenset((*kept, name)))
        session = _session(_quantised(proto, layers, ranges, False)) if layers.weighted else _session(proto)
        answers = [session.run(None, {INPUT_NAME: window}) for window in windows]
        pairs = [(a, b) for one, other in zip(exact, answers, strict=True) for a, b in zip(one, other, strict=True)]
        return float(np.mean([np.square(a - b).mean() for a, b in pairs]))

    while left:
        best = min(left, key=error)
        kept.append(best)
        left.remove(best)
        yield best


def _quantised(proto: onnx.ModelProto, layers: Layers, ranges: Ranges, centred: bool) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    chosen = [*layers.weighted, *layers.passing]
    kinds = sorted({node.op_type for node in copy.graph.node if node.name in set(chosen)})
    data = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in _joined(copy, layers, ranges, centred).items()
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
    _keep_cutting(model.graph, proto.graph)
    _join_whole_numbers(model.graph)
    return model


def _joined(proto: onnx.ModelProto, layers: Layers, ranges: Ranges, centred: bool) -> Ranges:
    """Ranges in which what is joined has one range, so that `_join_whole_numbers` can join it as it is."""
    found = dict(ranges)
    for node in proto.graph.node:
        if node.op_type == "Concat" and node.name in set(layers.passing) and found.keys() >= set(node.input):
            parts = [found[name] for name in node.input]
            both = min(low for low, _ in parts), max(high for _, high in parts)
            found |= dict.fromkeys((*node.input, *node.output), both)
    return {name: _centred(*both) if centred and both[0] < 0 else both for name, both in found.items()}


def _centred(low: float, high: float) -> tuple[float, float]:
    """The range of 256 steps around it in which 0 is number 128."""
    step = max(-low / 128, high / 127)
    return -128 * step, 127 * step


def _keep_cutting(graph: onnx.GraphProto, before: onnx.GraphProto) -> None:
    """Put back the ReLUs whose answer is now written with negative numbers, too: the quantiser has left out all."""
    left = {node.output[0] for node in before.node if node.op_type == "Relu"}
    left -= {node.output[0] for node in graph.node if node.op_type == "Relu"}
    zeros = {tensor.name: int(onnx.numpy_helper.to_array(tensor).max(initial=0)) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for rounding in [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] in left]:
        if zeros[rounding.input[2]] > 0:
            name = rounding.input[0]
            maker = makers[name]
            maker.output[list(maker.output).index(name)] = f"{name}_uncut"
            place = list(graph.node).index(maker) + 1
            graph.node.insert(place, onnx.helper.make_node("Relu", [f"{name}_uncut"], [name], name=f"{name}_cut"))


def _join_whole_numbers(graph: onnx.GraphProto) -> None:
    """Concatenate the whole numbers of parts with one scale, in place of what they stand for; the same answers.

    Otherwise runtimes would scale every part, join the floats and round them again: a tenth of a U-Net's time.
    """
    makers = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Concat"]:
        parts = [makers.get(name) for name in node.input]
        readers = [n for n in graph.node if node.output[0] in n.input]
        scaled = [*parts, *readers]
        kinds = [part.op_type if part is not None else "" for part in scaled]
        if kinds != ["DequantizeLinear"] * len(parts) + ["QuantizeLinear"]:
            continue
        if len({tuple(stored.get(name) for name in part.input[1:]) for part in scaled if part is not None}) > 1:
            continue
        for i, part in enumerate(parts):
            if part is not None:
                node.input[i] = part.input[0]
        node.output[0] = readers[0].output[0]
        graph.node.remove(readers[0])
        for name, part in {part.output[0]: part for part in parts if part is not None}.items():
            if not any(name in n.input for n in graph.node):
                graph.node.remove(part)


def _session(proto: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; printed as well they would be said twice
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
