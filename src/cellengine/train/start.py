"""Weights to start from: of an earlier run, or of torchvision, as far as they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from cellengine.errors import ModelError
from cellengine.models.checkpoint import load_weights
from cellengine.models.detection.naming import modern_names

PREFIXES = ("", "module.", "backbone.", "body.", "backbone.body.")
"""what names of parameters may begin with in one network and not in another: a trunk by itself, or inside"""
_NAMED = 6


def take_weights(model: nn.Module, path: Path, echo: Callable[[str], None]) -> None:
    """Load into `model` what the checkpoint `path` has under the same name and in the same shape; say what not.

    Names may differ by one of PREFIXES, so that a classifier's trunk and a detector's backbone fit each other, and a
    torchvision ResNet fits both. Raises ModelError when nothing fits.
    """
    given, own = modern_names(load_weights(path)), model.state_dict()
    candidates = [_fitting(own, _renamed(given, prefix, add)) for prefix in PREFIXES for add in (True, False)]
    taken = max(candidates, key=len)
    learned = [name for name in own if not name.endswith("num_batches_tracked")]
    left = [name for name in learned if name not in taken]
    if len(left) == len(learned):
        raise ModelError(f"{path}: its weights are of another network: nothing fits by name and shape.")
    model.load_state_dict(taken, strict=False)
    echo(f"{path.name}: {len(learned) - len(left)} of {len(learned)} tensors are taken as a start")
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        echo(f"left out, they start anew: {', '.join(left[:_NAMED])}{more}")


def _renamed(given: Mapping[str, torch.Tensor], prefix: str, add: bool) -> dict[str, torch.Tensor]:
    if add:
        return {prefix + name: value for name, value in given.items()}
    return {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}


def _fitting(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
