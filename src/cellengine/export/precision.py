"""Forms of a model that change its graph, fp16 and int8: made from the fp32 file, verified, and written beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from cellengine.engine.backends import BACKENDS, OWN_FILE
from cellengine.engine.model_file import ModelFile, form_path, read_model_file
from cellengine.engine.session import Session
from cellengine.errors import DeviceError, ModelError
from cellengine.export.graph import with_metadata
from cellengine.export.half import to_half
from cellengine.export.layers import name_nodes
from cellengine.export.quantise import find_int8
from cellengine.spec import Parity

Array = np.ndarray[Any, Any]
Check = Callable[[Session], Parity]
"""what a session keeps of the reference: runs it on the pictures of the verification"""
Echo = Callable[[str], None]

ROADS = {
    "fp32": ("onnxruntime", "openvino"),
    "bf16": ("openvino",),
    "fp16": ("onnxruntime",),
    "int8": ("onnxruntime", "openvino"),
}
"""precision -> backends it is verified on, on the CPU where the export runs"""
WINDOWS = 16
"""windows of pictures that the ranges of int8 are measured on"""
WINDOW_PX = {2: 256, 3: 64}
"""dimensions -> side of a window"""


def verify_roads(file: ModelFile, precision: str, check: Check, echo: Echo) -> list[Parity]:
    """The parity of `precision` on every backend that can run it here; what cannot is said and left out."""
    found = []
    for backend in ROADS[precision]:
        if problem := _why_not(backend, precision):
            echo(f"{precision} {backend}: not verified here: {problem}")
            continue
        with BACKENDS[backend]().open(file, "cpu", _arithmetic(precision), None) as session:
            parity = replace(check(session), precision=precision, emulated=_arithmetic(precision) != precision)
        found.append(parity)
        echo(describe(parity))
    return found


def _arithmetic(precision: str) -> str:
    """In what the CPU computes a graph of `precision`: fp16 in fp32 between roundings, which checks the graph."""
    return "fp32" if precision == "fp16" else precision


def _why_not(backend: str, precision: str) -> str:
    """Why `precision` cannot be verified on `backend` here; empty when it can."""
    try:
        return BACKENDS[backend]().why_not("cpu", _arithmetic(precision))
    except DeviceError as error:
        return str(error)


def _require_road(precision: str) -> None:
    problems = [_why_not(backend, precision) for backend in ROADS[precision]]
    if all(problems):
        raise DeviceError(
            f"{precision} cannot be verified here: {'; '.join(dict.fromkeys(problems))}; "
            "export it on another machine, or leave it out of --precision."
        )


def describe(parity: Parity) -> str:
    """One line of the parity table."""
    parts = [f"largest difference {parity.max_difference:.1e}"]
    if parity.f1_at_80 is not None:
        parts.append(f"F1 at IoU 0.8 {parity.f1_at_80:.4f}")
    if parity.count_difference is not None:
        parts.append(f"count {100 * parity.count_difference:.2f} %")
    if parity.mean_ap_change is not None:
        parts.append(f"mean AP {parity.mean_ap_change:+.4f}")
    if parity.dice is not None:
        parts.append(f"Dice {parity.dice:.4f}")
    if parity.same_class is not None:
        parts.append(f"same class {100 * parity.same_class:.2f} %")
    where = f"{parity.backend}, its graph in fp32 arithmetic" if parity.emulated else parity.backend
    return f"{parity.precision} {where}: {'passed' if parity.passed else 'FAILED'}; {', '.join(parts)}"


def make_forms(
    parent: ModelFile,
    final: Path,
    precisions: Sequence[str],
    pictures: Iterable[Array],
    check: Check,
    echo: Echo,
) -> dict[Path, Path]:
    """Write a file for every precision that changes the graph, under a partial name; returns partial -> final name.

    `parent` is the fp32 file, as it will be named `final`. `pictures` are scaled, (C, *spatial), to calibrate int8 on.
    Raises ModelError when a form does not find the same objects, DeviceError when it cannot be run here at all; then
    none of the partial files is left.
    """
    proto = name_nodes(onnx.load_model_from_string(parent.content))
    written: dict[Path, Path] = {}
    try:
        for form in [p for p in precisions if p in OWN_FILE]:
            _require_road(form)
            path = form_path(final, form)
            partial = path.with_name(f".{path.name}.partial.onnx")
            written[partial] = path
            if form == "fp16":
                _half(parent, proto, partial, check, echo)
            else:
                _int8(parent, proto, partial, windows(pictures, parent.spec.divisor), check, echo)
    except BaseException:
        for partial in written:
            partial.unlink(missing_ok=True)
        raise
    return written


def windows(pictures: Iterable[Array], divisor: Sequence[int]) -> list[Array]:
    """The centre of each of the first pictures as a batch of one, float32, its sides multiples of `divisor`."""
    found = []
    for picture, _ in zip(pictures, range(WINDOWS), strict=False):
        sides = [min(n, WINDOW_PX[len(divisor)]) // d * d or d for n, d in zip(picture.shape[1:], divisor, strict=True)]
        missing = [max(0, side - n) for side, n in zip(sides, picture.shape[1:], strict=True)]
        padded = np.pad(picture, [(0, 0), *((0, m) for m in missing)], mode="symmetric")
        starts = [(n - side) // 2 for n, side in zip(padded.shape[1:], sides, strict=True)]
        cut = tuple(slice(a, a + side) for a, side in zip(starts, sides, strict=True))
        found.append(np.ascontiguousarray(padded[(slice(None), *cut)], np.float32)[None])
    if not found:
        raise ModelError("int8 needs pictures to calibrate on: name some with --calibrate.")
    return found


def _half(parent: ModelFile, proto: onnx.ModelProto, path: Path, check: Check, echo: Echo) -> None:
    graph, float_layers = to_half(proto)
    if not _write(parent, graph, "fp16", float_layers, path, check, echo):
        raise ModelError(
            "fp16 does not find the same objects as fp32 (see the table above): no file was written; "
            "leave it out of --precision."
        )


def _int8(
    parent: ModelFile, proto: onnx.ModelProto, path: Path, calibration: list[Array], check: Check, echo: Echo
) -> None:
    def passes(graph: onnx.ModelProto, float_layers: tuple[str, ...]) -> bool:
        return _write(parent, graph, "int8", float_layers, path, check, echo)

    float_layers = find_int8(proto, calibration, passes)
    names = ", ".join(float_layers)
    echo(f"int8: in floating point stay {names}; calibrated on {len(calibration)} windows of pictures")


def _write(
    parent: ModelFile,
    graph: onnx.ModelProto,
    form: str,
    float_layers: tuple[str, ...],
    path: Path,
    check: Check,
    echo: Echo,
) -> bool:
    """Write a form, verify it, and write its parity into it; whether it passed everywhere that it could be run."""
    if parent.golden is None:
        raise ModelError(f"{parent.path} carries no golden test; export it again from its training run.")
    spec = replace(parent.spec, parity=(), float_layers=float_layers)
    path.write_bytes(with_metadata(graph, spec, parent.golden, form, parent.sha256))
    parity = verify_roads(read_model_file(path), form, check, echo)
    spec = replace(spec, parity=tuple(parity))
    path.write_bytes(with_metadata(graph, spec, parent.golden, form, parent.sha256))
    return bool(parity) and all(p.passed for p in parity)
