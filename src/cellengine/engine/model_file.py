"""A model is one ONNX file: finding it, and checking all of it before a picture is opened. No runtime, nothing runs.

Entries of the ONNX metadata:

    cellengine.spec        the ModelSpec as JSON (required)
    cellengine.golden      the golden test as JSON (`engine.golden`)
    cellengine.form        what a file made from another one is: `int8`, `fp16`, `gridsample` (with `parent`)
    cellengine.parent      SHA-256 (hex) of the file it was made from

fp32 and bf16 run from the same file. A form lies beside its parent: `nuclei.int8.onnx` beside `nuclei.onnx`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from cellengine.engine.golden import Golden
from cellengine.errors import ModelError, UsageError
from cellengine.spec import INPUT_NAME, METADATA_KEY, ModelSpec
from cellengine.zoo import bundled

GOLDEN_KEY = "cellengine.golden"
FORM_KEY = "cellengine.form"
PARENT_KEY = "cellengine.parent"
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""operator sets that the backends know; com.microsoft holds what onnxruntime's quantiser writes"""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that passed every check that needs no runtime."""

    path: Path
    content: bytes
    """the checked bytes, so that a backend runs exactly what was checked and hashed"""
    spec: ModelSpec
    sha256: str
    golden: Golden | None
    form: str | None = None
    """`int8`, `fp16`, ... for a file made from another one; None for the fp32 original"""
    parent: str | None = None
    """SHA-256 of the file that a form was made from"""

    def __repr__(self) -> str:
        return f"ModelFile({str(self.path)!r}, sha256={self.sha256[:12]})"


def resolve_model(model: str | Path) -> Path:
    """The file of a bundled name or of a path.

    Raises ModelError for an unknown name (listing the known ones), UsageError for a path that does not exist.
    """
    known = bundled()
    if isinstance(model, str) and model in known:
        return known[model]
    path = Path(model)
    if path.is_file():
        return path
    if path.is_dir():
        raise UsageError(f"The model {path} is a folder; expected an .onnx file or one of the names: {_names(known)}.")
    if isinstance(model, Path) or path.suffix or "/" in model or "\\" in model:
        raise UsageError(f"The model {path} does not exist; give an .onnx file or one of the names: {_names(known)}.")
    raise ModelError(f"Unknown model {model}; the bundled models are: {_names(known)}. A file ends in .onnx.")


def read_model_file(path: Path) -> ModelFile:
    """Read and check a model; about 0.05 s for 7 MB.

    Checked are: that it parses, has no data outside the file, uses known operators in a valid graph, and carries a
    spec that fits the graph's input and outputs. Raises ModelError, or UsageError when the file does not exist.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"The model {path} does not exist.") from error
    except OSError as error:
        raise ModelError(f"The model {path} cannot be read: {error.strerror}.") from error
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:
        raise ModelError(f"{path}: not an ONNX model, or cut short; get the file again.") from error
    _check_graph(proto, content, path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if METADATA_KEY not in metadata:
        raise ModelError(f"{path}: an ONNX model without a cellengine spec; make it with cellengine export.")
    spec = ModelSpec.from_json(metadata[METADATA_KEY], str(path))
    _check_signature(proto, spec, path)
    golden = Golden.from_json(metadata[GOLDEN_KEY], str(path)) if GOLDEN_KEY in metadata else None
    return ModelFile(
        path,
        content,
        spec,
        hashlib.sha256(content).hexdigest(),
        golden,
        metadata.get(FORM_KEY),
        metadata.get(PARENT_KEY),
    )


def form_path(path: Path, form: str) -> Path:
    """Where a form of a model lies: `nuclei.onnx`, `int8` -> `nuclei.int8.onnx`."""
    return path.with_name(f"{path.stem}.{form}{path.suffix}")


def find_form(model: ModelFile, form: str) -> ModelFile | None:
    """The file of `form` beside `model`; None when there is none.

    Raises ModelError when there is one, but made from another model.
    """
    if model.form == form:
        return model
    path = form_path(model.path, form)
    if not path.is_file():
        return None
    found = read_model_file(path)
    if found.form != form or found.parent != model.sha256:
        raise ModelError(
            f"{path}: not made from {model.path.name} as it is now (SHA-256 {model.sha256[:12]}, found "
            f"{(found.parent or 'none')[:12]}); make it again with cellengine export --precision {form}."
        )
    return found


def _names(known: dict[str, Path]) -> str:
    return ", ".join(known) or "none in this installation"


def _check_graph(proto: onnx.ModelProto, content: bytes, path: Path) -> None:
    if not proto.graph.node:
        raise ModelError(f"{path}: not an ONNX model, or cut short: it has no nodes; get the file again.")
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ModelError(
                f"{path}: the tensor {tensor.name!r} lies outside the file, which is never followed; "
                "save the model with all data inside."
            )
    for node in _nodes(proto):
        if node.domain not in DOMAINS:
            raise ModelError(
                f"{path}: unknown operator {node.domain}::{node.op_type}; export it with cellengine export."
            )
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{path}: not a valid ONNX graph ({reason}); export the model again.") from error


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for inner in _inner_graphs(node):
            yield from _graphs(inner)


def _inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node: of the graph, of the bodies of If and Loop, and of local functions."""
    for graph in _graphs(proto.graph):
        yield from graph.node
    for function in proto.functions:
        for node in function.node:
            yield node
            for inner in _inner_graphs(node):
                for graph in _graphs(inner):
                    yield from graph.node


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that holds data: weights, sparse weights and constants of nodes."""
    graphs = list(_graphs(proto.graph))
    for node in _nodes(proto):
        graphs.extend(_inner_graphs(node))
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)


def _check_signature(proto: onnx.ModelProto, spec: ModelSpec, path: Path) -> None:
    """The graph's input and outputs are those that the spec says."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if [value.name for value in inputs] != [INPUT_NAME]:
        raise ModelError(
            f"{path}: its inputs are {', '.join(v.name for v in inputs) or 'none'}, expected one, {INPUT_NAME}."
        )
    dims = len(spec.axes)
    _check_value(inputs[0], 2 + dims, len(spec.channels), path)
    if inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise ModelError(f"{path}: its input is not float32; export it with float32 input and output.")
    found = {value.name: value for value in proto.graph.output}
    expected = {output.name: output for output in spec.outputs}
    if set(found) != set(expected):
        raise ModelError(f"{path}: its outputs are {', '.join(found)}, its spec says {', '.join(expected)}.")
    for name, value in found.items():
        if spec.task == "classification":
            _check_value(value, 2, expected[name].channels, path)
        elif spec.task != "detection":
            _check_value(value, 2 + dims, expected[name].channels, path)


def _check_value(value: onnx.ValueInfoProto, rank: int, channels: int, path: Path) -> None:
    shape = value.type.tensor_type.shape.dim
    if len(shape) != rank:
        raise ModelError(f"{path}: {value.name} has {len(shape)} axes in the graph, its spec says {rank}.")
    if shape[1].dim_value not in (0, channels):
        raise ModelError(
            f"{path}: {value.name} has {shape[1].dim_value} channels in the graph, its spec says {channels}."
        )
