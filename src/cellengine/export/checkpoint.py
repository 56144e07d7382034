"""A training run's best checkpoint to a model file: what to load and what to verify on, then `export_model`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cellengine.engine.backends import OWN_FILE
from cellengine.engine.model_file import read_model_file
from cellengine.errors import ModelError, UsageError
from cellengine.export.average import average_with
from cellengine.export.model import export_forms, export_model
from cellengine.export.pictures import Reading, list_by_split
from cellengine.export.precision import WINDOWS
from cellengine.export.verify import Annotated
from cellengine.geometry import Region
from cellengine.io import find_inputs, open_source
from cellengine.models import build, read_config
from cellengine.models.checkpoint import load_checkpoint
from cellengine.spec import ModelSpec

Array = np.ndarray[Any, Any]
T = TypeVar("T")

NEEDED = ("model", "network", "spec", "data")


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    precisions: Sequence[str],
    verify_on: str | None,
    echo: Callable[[str], None],
    calibrate: str | None = None,
    svd_rank: int | None = None,
    average: tuple[Path, float] | None = None,
) -> ModelSpec:
    """Export `checkpoint` (a best.pt) to `output`; see `export_model`.

    `average`: an exported model of the same network, and its share in the mean of both that is exported.

    `verify_on` is a list or folder of annotated pictures; by default those the run was validated on. `calibrate` names
    pictures for int8, as `infer` takes them; by default those the run was trained on.
    """
    state = load_checkpoint(checkpoint)
    missing = [name for name in NEEDED if name not in state]
    if missing:
        raise ModelError(f"{checkpoint}: no entry {missing[0]!r}; expected the best.pt of a training run.")
    spec = ModelSpec.from_json(state["spec"], str(checkpoint))
    module = build(read_config(state["network"], str(checkpoint)))
    try:
        module.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ModelError(f"{checkpoint}: its weights do not fit its network; train the model again.") from error
    if average is not None:
        average_with(module, *average)
        spec = replace(spec, metrics={})
    reading = Reading.of_run(state)
    pictures, calibration = _pictures(verify_on or state["data"], calibrate, precisions, spec, reading)
    return export_model(module, spec, output, pictures, precisions, echo, calibration, svd_rank)


def export_file(
    model: Path,
    output: Path,
    precisions: Sequence[str],
    verify_on: str | None,
    echo: Callable[[str], None],
    calibrate: str | None = None,
) -> ModelSpec:
    """Verify more precisions of a model file that is exported already; see `export_forms`. Needs `verify_on`."""
    file = read_model_file(model)
    if set(precisions) <= set(file.spec.precisions) - set(OWN_FILE):
        raise UsageError(
            f"{model} is exported and verified in {', '.join(file.spec.precisions)} already: name another --precision."
        )
    if verify_on is None:
        raise UsageError(f"{model} is no training run: name annotated pictures to verify on with --verify-on.")
    pictures, calibration = _pictures(verify_on, calibrate, precisions, file.spec, Reading())
    return export_forms(file, output, pictures, precisions, echo, calibration)


def _pictures(
    verify_on: str, calibrate: str | None, precisions: Sequence[str], spec: ModelSpec, reading: Reading
) -> tuple[list[Annotated], list[Array] | None]:
    """The annotated pictures to verify on, and raw ones to calibrate on where int8 is asked for."""
    source = Path(verify_on)
    if not source.exists():
        raise UsageError(f"The pictures to verify on, {source}, do not exist: name others with --verify-on.")
    listed = list_by_split(source, spec, reading)
    held = [load() for load in listed["val"]]
    if "int8" not in precisions:
        return held, None
    if calibrate is not None:
        return held, [_read(file.path) for file in _spread(find_inputs([calibrate]))]
    return held, [load().image for load in _spread(listed["train"] or listed["val"])]


def _spread(items: Sequence[T]) -> list[T]:
    """As many as are calibrated on, evenly over the list: lists are often sorted by kind."""
    return [items[i] for i in sorted({round(i) for i in np.linspace(0, len(items) - 1, min(WINDOWS, len(items)))})]


def _read(path: Path) -> Array:
    with open_source(path) as source:
        image: Array = source.read(Region.whole(source.shape))
        return image if "C" in source.axes else image[None]
