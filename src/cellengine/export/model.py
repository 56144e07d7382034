"""`export`, the whole story: checkpoint, halo, graph, golden test, parity, and one file if everything holds."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

from cellengine.engine.backends import BACKENDS, OWN_FILE
from cellengine.engine.environment import versions
from cellengine.engine.golden import golden_input, golden_tile, make_golden
from cellengine.engine.model_file import ModelFile, read_model_file
from cellengine.engine.scale import measure_scale
from cellengine.engine.session import Session
from cellengine.errors import ModelError
from cellengine.export.detection import in_form, make_gridsample, truncated
from cellengine.export.graph import to_onnx, with_metadata
from cellengine.export.halo import measure_halo
from cellengine.export.precision import Check, make_forms, verify_roads
from cellengine.export.verify import Annotated, answer, verify
from cellengine.models.detection import MaskRCNN
from cellengine.models.session import TorchSession
from cellengine.ops.normalize import normalize_into
from cellengine.spec import ModelSpec, Parity

Array = np.ndarray[Any, Any]
Echo = Callable[[str], None]


def export_model(
    module: nn.Module,
    spec: ModelSpec,
    path: Path,
    pictures: Sequence[Annotated],
    precisions: Sequence[str],
    echo: Echo,
    calibration: Sequence[Array] | None = None,
    svd_rank: int | None = None,
) -> ModelSpec:
    """Write `path`, one ONNX file, and its forms for fp16 and int8 beside it; return the spec.

    The halo is measured and every precision verified on `pictures`; int8 is calibrated on `calibration`, raw pictures
    (C, *spatial), by default the same. A detector is written with the operator RoiAlign, and beside it without, for
    TensorRT; `svd_rank` truncates the large layers of its box head, and the table says what that costs.

    Raises ModelError when fp32 fails anywhere or a precision asked for fails everywhere; then no file is left behind.
    """
    module = module.eval()
    written_module = truncated(module, svd_rank)
    if spec.task not in ("classification", "detection"):  # a crop has no surrounding, an object decides on its own
        with TorchSession(module, spec) as reference:
            scaled = (_scaled(p.image, spec) for p in pictures[: 12 if len(spec.axes) == 2 else 4])
            halo, change = measure_halo(reference, scaled, spec.receptive_field)
        echo(f"halo: {halo} px moves outputs by {change:.1e} at most; receptive field: {spec.receptive_field} px")
        spec = replace(spec, halo=halo)
    spec = replace(spec, versions={**versions(), "machine": platform.machine()})
    partial = path.with_name(f".{path.name}.partial.onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    forms: dict[Path, Path] = {}
    try:
        with TorchSession(written_module, spec) as written_session:
            tile = golden_tile(spec.divisor)
            golden = make_golden(written_session.run(golden_input(len(spec.channels), tile)), len(spec.channels), tile)
        with TorchSession(module, spec) as reference:
            proto = to_onnx(in_form(written_module, "roialign"), spec)
            partial.write_bytes(with_metadata(proto, spec, golden))
            check = _checker(reference, pictures, echo)
            own = [p for p in precisions if p not in OWN_FILE]
            parity = [p for kind in own for p in verify_roads(read_model_file(partial), kind, check, echo)]
            _require(parity, own)
            spec = replace(spec, parity=tuple(parity))
            partial.write_bytes(with_metadata(proto, spec, golden))
            raw = calibration if calibration is not None else [p.image for p in pictures]
            scaled = (_scaled(image, spec) for image in raw)
            if isinstance(written_module, MaskRCNN):
                forms |= make_gridsample(written_module, read_model_file(partial), path, check, echo)
            forms |= make_forms(read_model_file(partial), path, precisions, scaled, check, echo)
        for written, final in {partial: path, **forms}.items():
            written.replace(final)
    finally:
        for written in (partial, *forms):
            written.unlink(missing_ok=True)
    return spec


def export_forms(
    model: ModelFile,
    path: Path,
    pictures: Sequence[Annotated],
    precisions: Sequence[str],
    echo: Echo,
    calibration: Sequence[Array] | None = None,
) -> ModelSpec:
    """Verify more precisions of a model that is exported already, and write its forms; see `export_model`.

    The reference is the file itself in fp32, which was verified when it was made. What runs from the file itself (bf16)
    is added to the table in the copy at `path`, which is then another file: forms made from the one before are refused
    beside it. Forms for fp16 and int8 are made from the copy.
    """
    partial = path.with_name(f".{path.name}.partial.onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    forms: dict[Path, Path] = {}
    try:
        with BACKENDS["onnxruntime"]().open(model, "cpu", "fp32", None) as reference:
            check = _checker(reference, pictures, echo)
            own = [p for p in precisions if p not in OWN_FILE and p not in model.spec.precisions]
            parity = [p for kind in own for p in verify_roads(model, kind, check, echo)]
            _require(parity, own)
            partial.write_bytes(_with_parity(model, parity))
            raw = calibration if calibration is not None else [p.image for p in pictures]
            scaled = (_scaled(image, model.spec) for image in raw)
            forms = make_forms(read_model_file(partial), path, precisions, scaled, check, echo)
        written_spec = read_model_file(partial).spec
        if parity or not (path.exists() and path.samefile(model.path)):
            partial.replace(path)
        for written, final in forms.items():
            written.replace(final)
    finally:
        for written in (partial, *forms):
            written.unlink(missing_ok=True)
    return written_spec


def _with_parity(model: ModelFile, parity: Sequence[Parity]) -> bytes:
    """The file with more rows in its table; its very bytes when there are none."""
    if not parity:
        return model.content
    if model.golden is None:
        raise ModelError(f"{model.path} carries no golden test; export it again from its training run.")
    kept = [p for p in model.spec.parity if p.precision not in {new.precision for new in parity}]
    spec = replace(model.spec, parity=(*kept, *parity))
    return with_metadata(onnx.load_model_from_string(model.content), spec, model.golden)


def _checker(reference: Session, pictures: Sequence[Annotated], echo: Echo) -> Check:
    """Compares a session with the reference on `pictures`, which the reference answers once."""
    expected = answer(reference, pictures)
    quality = "".join(f"{name} {value:.4f} on " for name, value in expected.quality.items())
    echo(f"fp32 {reference.backend}: {quality}{len(pictures)} pictures")
    return lambda candidate: verify(reference, expected, candidate, pictures)


def _require(parity: Sequence[Parity], precisions: Sequence[str]) -> None:
    failed = [p for p in parity if not p.passed]
    for precision in precisions:
        roads = [p for p in parity if p.precision == precision]
        if not any(p.passed for p in roads) or (precision == "fp32" and any(p in failed for p in roads)):
            raise ModelError(
                f"{precision} does not find the same objects as fp32 PyTorch (see the table above): "
                "no file was written; leave it out of --precision, or train on."
            )


def _scaled(raw: Array, spec: ModelSpec) -> Array:
    """A raw picture as the network takes it; one channel feeds all."""
    image = np.broadcast_to(raw, (len(spec.channels), *raw.shape[1:]))
    scale = measure_scale(lambda: [image], len(image), image.dtype, spec.normalize).scale
    out = np.empty(image.shape, np.float32)
    normalize_into(image, scale, out)
    return out
