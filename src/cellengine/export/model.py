"""`export`, the whole story: checkpoint, halo, graph, golden test, parity, and one file if everything holds."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cellengine.engine.backends import BACKENDS
from cellengine.engine.environment import versions
from cellengine.engine.golden import golden_input, golden_tile, make_golden
from cellengine.engine.model_file import read_model_file
from cellengine.engine.scale import measure_scale
from cellengine.errors import ModelError
from cellengine.export.graph import to_onnx, with_metadata
from cellengine.export.halo import measure_halo
from cellengine.export.verify import Annotated, answer, verify
from cellengine.models.session import TorchSession
from cellengine.ops.normalize import normalize_into
from cellengine.spec import ModelSpec, Parity

Array = np.ndarray[Any, Any]
Echo = Callable[[str], None]

ROADS = {"fp32": ("onnxruntime", "openvino"), "bf16": ("openvino",)}
"""precision -> backends it is verified on, on the CPU where the export runs"""


def export_model(
    module: nn.Module,
    spec: ModelSpec,
    path: Path,
    pictures: Sequence[Annotated],
    precisions: Sequence[str],
    echo: Echo,
) -> ModelSpec:
    """Write `path`, one ONNX file, and return its spec.

    The halo is measured and every precision verified on `pictures`. Raises ModelError when fp32 fails anywhere or a
    precision asked for fails everywhere; then no file is left behind.
    """
    module = module.eval()
    with TorchSession(module, spec) as reference:
        halo, change = measure_halo(reference, (_scaled(p, spec) for p in pictures[:12]), spec.receptive_field)
    echo(f"halo: {halo} px moves outputs by {change:.1e} at most; receptive field: {spec.receptive_field} px")
    spec = replace(spec, halo=halo, versions={**versions(), "machine": platform.machine()})
    partial = path.with_name(f".{path.name}.partial.onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with TorchSession(module, spec) as reference:
            tile = golden_tile(spec.divisor)
            golden = make_golden(reference.run(golden_input(len(spec.channels), tile)), len(spec.channels), tile)
            proto = to_onnx(module, spec)
            partial.write_bytes(with_metadata(proto, spec, golden))
            parity = _verify_all(reference, partial, pictures, precisions, echo)
        _check(parity, precisions)
        spec = replace(spec, parity=tuple(parity))
        partial.write_bytes(with_metadata(proto, spec, golden))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return spec


def _verify_all(
    reference: TorchSession, path: Path, pictures: Sequence[Annotated], precisions: Sequence[str], echo: Echo
) -> list[Parity]:
    file = read_model_file(path)
    expected = answer(reference, pictures)
    echo(f"fp32 torch: mean AP {expected.mean_ap:.4f} on {len(pictures)} pictures")
    found = []
    for precision in precisions:
        for backend in ROADS[precision]:
            road = BACKENDS[backend]()
            if problem := road.why_not("cpu", precision):
                echo(f"{precision} {backend}: not verified here: {problem}")
                continue
            with road.open(file, "cpu", precision, None) as candidate:
                parity = verify(reference, expected, candidate, pictures)
            found.append(parity)
            echo(
                f"{precision} {backend}: {'passed' if parity.passed else 'FAILED'}; "
                f"F1 at IoU 0.8 {parity.f1_at_80:.4f}, "
                f"count {100 * (parity.count_difference or 0):.2f} %, mean AP {parity.mean_ap_change:+.4f}, "
                f"largest difference {parity.max_difference:.1e}"
            )
    return found


def _check(parity: Sequence[Parity], precisions: Sequence[str]) -> None:
    failed = [p for p in parity if not p.passed]
    for precision in precisions:
        roads = [p for p in parity if p.precision == precision]
        if not any(p.passed for p in roads) or (precision == "fp32" and any(p in failed for p in roads)):
            raise ModelError(
                f"{precision} does not find the same objects as fp32 PyTorch (see the table above): "
                "no file was written; leave it out of --precision, or train on."
            )


def _scaled(picture: Annotated, spec: ModelSpec) -> Array:
    image = np.broadcast_to(picture.image, (len(spec.channels), *picture.image.shape[1:]))
    scale = measure_scale(lambda: [image], len(image), image.dtype, spec.normalize).scale
    out = np.empty(image.shape, np.float32)
    normalize_into(image, scale, out)
    return out
