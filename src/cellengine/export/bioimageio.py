"""A model as a package of the BioImage Model Zoo, for Fiji (deepImageJ), ilastik, QuPath and napari tools.

The package holds the same ONNX file, how its input is scaled, a test picture with its answers, and a page of
documentation. The decoder that turns scores into cells is ours: the others show and use the scores.
Format: https://bioimage-io.github.io/spec-bioimage-io, version 0.5.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from cellengine.engine.backends import BACKENDS
from cellengine.engine.golden import golden_input
from cellengine.engine.model_file import ModelFile
from cellengine.errors import UsageError
from cellengine.io.sink import writing
from cellengine.spec import INPUT_NAME, ModelSpec, Normalize

Array = np.ndarray[Any, Any]
Plain = dict[str, Any]

FORMAT = "0.5.4"
TEST_PX = {2: 256, 3: 64}
"""dimensions -> side of the test picture, about; its core must be more than halos"""
LICENCES = ("CC0-1.0", "CC-BY-4.0", "BSD-3-Clause", "MIT", "Apache-2.0")
"""as SPDX names them"""
EPSILON = 1e-6
"""what the format adds to a divisor"""


def write_package(model: ModelFile, path: Path) -> None:
    """Write `path`, a zip file, whole or not at all.

    Raises UsageError for detection models, whose boxes the format cannot describe.
    """
    if model.spec.task == "detection":
        raise UsageError(f"--bioimageio: {model.spec.name} answers with boxes, which the format cannot describe.")
    raw = _test_picture(model.spec)
    with BACKENDS["onnxruntime"]().open(model, "cpu", "int8" if model.form == "int8" else "fp32", None) as session:
        answers = session.run(_scaled(raw, model.spec.normalize))
    files = {"weights.onnx": model.content, "README.md": _readme(model.spec).encode(), "test_input.npy": _npy(raw)}
    files |= {f"test_{name}.npy": _npy(values) for name, values in answers.items()}
    files["rdf.yaml"] = json.dumps(_describe(model, files), indent=1).encode()  # JSON is YAML
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        partial.replace(path)


def _describe(model: ModelFile, files: dict[str, bytes]) -> Plain:
    spec = model.spec
    opset = next(o.version for o in onnx.load_model_from_string(model.content).opset_import if o.domain == "")
    described: Plain = {
        "type": "model",
        "format_version": FORMAT,
        "name": f"cellengine {spec.name}",
        "description": f"{spec.task} of {', '.join(spec.channels)} pictures, {len(spec.axes)}D, made by cellengine",
        "authors": [{"name": "The cellengine developers"}],
        "cite": [{"text": "cellengine", "url": "https://bioimage.io"}],
        "documentation": "README.md",
        "tags": ["cellengine", spec.task, f"{len(spec.axes)}d", *spec.classes],
        "inputs": [
            {
                "id": INPUT_NAME,
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": [_identifier(name) for name in spec.channels]},
                    *[_side(spec, i) for i in range(len(spec.axes))],
                ],
                "data": {"type": "float32"},
                "test_tensor": _file(files, "test_input.npy"),
                "preprocessing": _preprocessing(spec),
            }
        ],
        "outputs": [
            {
                "id": output.name,
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": _answers(spec, output.name, output.channels)},
                    *([] if spec.task == "classification" else [_kept(spec, i) for i in range(len(spec.axes))]),
                ],
                "data": {"type": "float32"},
                "test_tensor": _file(files, f"test_{output.name}.npy"),
            }
            for output in spec.outputs
        ],
        "weights": {"onnx": {**_file(files, "weights.onnx"), "opset_version": opset}},
        "config": {"cellengine": json.loads(spec.to_json())},
    }
    if spec.licence in LICENCES:
        described["license"] = spec.licence
    return described


def _side(spec: ModelSpec, axis: int) -> Plain:
    """A spatial axis of the input: any size that the divisor allows and that leaves a core."""
    place: Plain = {"type": "space", "id": spec.axes[axis].lower()}
    if spec.voxel_size_um is not None:
        place |= {"unit": "micrometer", "scale": spec.voxel_size_um[axis]}
    if spec.task == "classification":
        return place | {"size": spec.tile[axis]}
    divisor = spec.divisor[axis]
    least = -(-(2 * spec.halo[axis] + divisor) // divisor) * divisor
    return place | {"size": {"min": least, "step": divisor}}


def _kept(spec: ModelSpec, axis: int) -> Plain:
    """A spatial axis of an output: as large as the input, of which a halo is to be discarded."""
    name = spec.axes[axis].lower()
    place: Plain = {"type": "space", "id": name, "halo": spec.halo[axis]}
    if spec.voxel_size_um is not None:
        place |= {"unit": "micrometer", "scale": spec.voxel_size_um[axis]}
    return place | {"size": {"tensor_id": INPUT_NAME, "axis_id": name, "offset": 0}}


def _answers(spec: ModelSpec, name: str, channels: int) -> list[str]:
    if len(spec.classes) == channels:
        return [_identifier(part) for part in spec.classes]
    return [name] if channels == 1 else [f"{name}{i}" for i in range(channels)]


def _identifier(text: str) -> str:
    """A name as the format allows it: letters, digits and underscores, beginning with a letter."""
    kept = "".join(c if c.isascii() and c.isalnum() else "_" for c in text).lower()
    return kept if kept[:1].isalpha() else f"c{kept}"


def _preprocessing(spec: ModelSpec) -> list[Plain]:
    """The scaling of `Normalize` in the format's words; measured over the whole picture that is given."""
    n = spec.normalize
    axes = [*([] if n.per_channel else ["channel"]), *spec.axes.lower()]
    step: Plain
    if n.method == "constant":
        gain = 1 / (n.high - n.low)
        step = {"id": "scale_linear", "kwargs": {"gain": gain, "offset": -n.low * gain}}
    elif n.method == "zscore":
        step = {"id": "zero_mean_unit_variance", "kwargs": {"axes": axes, "eps": EPSILON}}
    else:
        low, high = (0.0, 100.0) if n.method == "minmax" else (n.low, n.high)
        kwargs = {"axes": axes, "min_percentile": low, "max_percentile": high, "eps": EPSILON}
        step = {"id": "scale_range", "kwargs": kwargs}
    clip = [] if n.clip is None else [{"id": "clip", "kwargs": {"min": n.clip[0], "max": n.clip[1]}}]
    return [step, *clip, {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}]


def _scaled(raw: Array, n: Normalize) -> Array:
    """What `_preprocessing` makes of the test picture (1, C, *sides)."""
    axes = tuple(range(2 if n.per_channel else 1, raw.ndim))
    if n.method == "constant":
        scaled = (raw - n.low) / (n.high - n.low)
    elif n.method == "zscore":
        scaled = (raw - raw.mean(axes, keepdims=True)) / (raw.std(axes, keepdims=True) + EPSILON)
    else:
        low, high = (0.0, 100.0) if n.method == "minmax" else (n.low, n.high)
        a, b = (np.percentile(raw, q, axes, keepdims=True) for q in (low, high))
        scaled = (raw - a) / (b - a + EPSILON)
    return np.ascontiguousarray(np.clip(scaled, *n.clip) if n.clip is not None else scaled, np.float32)


def _test_picture(spec: ModelSpec) -> Array:
    """A picture by an integer formula, in the range of the scaling's constants where it has some."""
    about = TEST_PX[len(spec.axes)]
    shape = tuple(
        tile if spec.task == "classification" else max(-(-about // d) * d, -(-(2 * h + 2 * d) // d) * d)
        for tile, d, h in zip(spec.tile, spec.divisor, spec.halo, strict=True)
    )
    picture = golden_input(len(spec.channels), shape)
    n = spec.normalize
    return picture * np.float32(n.high - n.low) + np.float32(n.low) if n.method == "constant" else picture


def _npy(values: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _file(files: dict[str, bytes], name: str) -> Plain:
    return {"source": name, "sha256": hashlib.sha256(files[name]).hexdigest()}


def _readme(spec: ModelSpec) -> str:
    figures = "\n".join(f"- {name}: {value:.4g}" for name, value in spec.metrics.items())
    return (
        f"# {spec.name}\n\nA model of cellengine ({spec.task}, {spec.axes}), trained on "
        f"{spec.training_data or 'data that its spec does not name'}. Licence: {spec.licence or 'not stated'}.\n\n"
        "# Validation\n\nMeasured on pictures that were not trained on:\n\n"
        f"{figures or 'the spec holds no figures.'}\n\n"
        "Outputs are probabilities and distances per voxel. To turn them into cells, run the ONNX file with "
        "`cellengine infer`, or take the foreground through a watershed.\n"
    )
