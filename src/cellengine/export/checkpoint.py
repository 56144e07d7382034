"""A training run's best checkpoint to a model file: what to load and what to verify on, then `export_model`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cellengine.errors import ModelError, UsageError
from cellengine.export.model import export_model
from cellengine.export.verify import Annotated
from cellengine.io.annotated import list_annotated, read_annotated
from cellengine.models import build, read_config
from cellengine.models.checkpoint import load_checkpoint
from cellengine.spec import ModelSpec

NEEDED = ("model", "network", "spec", "data")


def export_checkpoint(
    checkpoint: Path, output: Path, precisions: Sequence[str], verify_on: str | None, echo: Callable[[str], None]
) -> ModelSpec:
    """Export `checkpoint` (a best.pt) to `output`; see `export_model`.

    `verify_on` is a list or folder of annotated pictures; by default those the run was validated on.
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
    source = Path(verify_on or state["data"])
    if not source.exists():
        raise UsageError(f"The pictures to verify on, {source}, do not exist: name others with --verify-on.")
    items = [item for item in list_annotated(source) if item.split == "val"]
    pictures = [Annotated(p.item.image.name, p.image, p.labels) for p in map(read_annotated, items)]
    return export_model(module, spec, output, pictures, precisions, echo)
