"""What export does for detectors alone: two forms of RoIAlign, and truncated box heads."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

from torch import nn

from cellengine.engine.model_file import ModelFile, form_path, read_model_file
from cellengine.errors import ModelError, UsageError
from cellengine.export.graph import to_onnx, with_metadata
from cellengine.export.precision import Check, Echo, verify_roads
from cellengine.models.detection import MaskRCNN
from cellengine.models.detection.compress import compress
from cellengine.models.detection.roi_align import RoiForm

GRIDSAMPLE = "gridsample"
"""the form without the operator RoiAlign, which TensorRT wants; a file of its own beside the model"""


def in_form(module: nn.Module, form: RoiForm) -> nn.Module:
    """A detector whose graph is written with this form of RoIAlign, sharing its weights; other networks as they are."""
    if not isinstance(module, MaskRCNN):
        return module
    other = copy.copy(module)
    other.roi_align = replace(module.roi_align, form=form)
    return other


def truncated(module: nn.Module, rank: int | None) -> nn.Module:
    """The network with the large layers of its box head at `rank`; itself for None. Raises UsageError for others."""
    if rank is None:
        return module
    if not isinstance(module, MaskRCNN):
        raise UsageError("--svd-rank is for detectors: this network has no box head.")
    return compress(module, rank)


def make_gridsample(module: MaskRCNN, parent: ModelFile, final: Path, check: Check, echo: Echo) -> dict[Path, Path]:
    """Write the form for TensorRT of `parent`, which will be named `final`; returns its partial name -> final name.

    Raises ModelError when it does not find the same objects; then its file is removed.
    """
    if parent.golden is None:
        raise ModelError(f"{parent.path} carries no golden test; export it again from its training run.")
    path = form_path(final, GRIDSAMPLE)
    partial = path.with_name(f".{path.name}.partial.onnx")
    try:
        graph, spec = to_onnx(in_form(module, "gridsample"), parent.spec), replace(parent.spec, parity=())
        partial.write_bytes(with_metadata(graph, spec, parent.golden, GRIDSAMPLE, parent.sha256))
        echo(f"{GRIDSAMPLE}:")
        parity = verify_roads(read_model_file(partial), "fp32", check, echo)
        if not parity or not all(p.passed for p in parity):
            raise ModelError(
                "The form for TensorRT does not find the same objects (see the table): no file was written."
            )
        spec = replace(spec, parity=tuple(parity))
        partial.write_bytes(with_metadata(graph, spec, parent.golden, GRIDSAMPLE, parent.sha256))
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return {partial: path}
