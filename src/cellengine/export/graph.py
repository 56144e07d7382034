"""A torch network to ONNX bytes with its spec and golden test in the metadata. Nothing is written here."""

from __future__ import annotations

import logging
import warnings

import onnx
import torch
from torch import nn

from cellengine.engine.golden import Golden
from cellengine.engine.model_file import FORM_KEY, GOLDEN_KEY, PARENT_KEY
from cellengine.errors import ModelError
from cellengine.spec import INPUT_NAME, METADATA_KEY, ModelSpec

OPSET = 20


class _Ordered(nn.Module):
    """The network with its outputs as a tuple in the spec's order: the exporter names tuples, not dictionaries."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.module(image)
        return tuple(outputs[name] for name in self.names)


def to_onnx(module: nn.Module, spec: ModelSpec) -> onnx.ModelProto:
    """The fp32 graph of `module`, which must be in evaluation mode; batch and sides stay dynamic.

    Raises ModelError when the exporter's graph does not pass ONNX's own check.
    """
    names = tuple(output.name for output in spec.outputs)
    whole_crops = spec.task == "classification"  # which pool further than their divisor says
    example = torch.zeros(1, len(spec.channels), *(spec.tile if whole_crops else (2 * d for d in spec.divisor)))
    sides = {2 + i: f"side_{axis.lower()}" for i, axis in enumerate(spec.axes)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for talker in ("onnxscript", "torch.onnx"):  # of packages that are not installed nor needed
            logging.getLogger(talker).setLevel(logging.ERROR)
        program = torch.onnx.export(
            _Ordered(module, names).eval(),
            (example,),
            input_names=[INPUT_NAME],
            output_names=list(names),
            dynamic_shapes=({0: "batch", **sides},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ModelError("The exporter gave no graph.")
    proto = program.model_proto
    _name_sides(proto, sides)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"The exported graph is not valid ONNX: {str(error).splitlines()[0]}") from error
    return proto


def with_metadata(
    proto: onnx.ModelProto, spec: ModelSpec, golden: Golden, form: str | None = None, parent: str | None = None
) -> bytes:
    """The bytes of a model file: graph, spec and golden test; what the exporter noted of itself is dropped.

    A `form` (fp16, int8) also carries the SHA-256 of the file that it was made from, its `parent`.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for node in copy.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*copy.graph.value_info, *copy.graph.initializer, *copy.graph.input, *copy.graph.output):
        del value.metadata_props[:]
    del copy.metadata_props[:]
    entries = {METADATA_KEY: spec.to_json(), GOLDEN_KEY: golden.to_json(), FORM_KEY: form, PARENT_KEY: parent}
    for key, text in entries.items():
        if text is not None:
            copy.metadata_props.add(key=key, value=text)
    copy.producer_name = "cellengine"
    content: bytes = copy.SerializeToString()
    return content


def _name_sides(proto: onnx.ModelProto, sides: dict[int, str]) -> None:
    """Give every output the same names for batch and sides as the input, where the exporter left expressions.

    Sides of fixed length, such as those of a detector's masks, stay as they are.
    """
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        for axis, name in {0: "batch", **sides}.items():
            if axis < len(dims) and not dims[axis].HasField("dim_value"):
                dims[axis].dim_param = name
    del proto.graph.value_info[:]
