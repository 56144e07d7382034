"""Weights to start from: of an earlier run, of an exported model, or of torchvision, as far as they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from cellengine.errors import ModelError
from cellengine.models.checkpoint import load_weights
from cellengine.models.detection.naming import modern_names
from cellengine.train.exported import check_answers, exported_weights, measure_norms
from cellengine.train.recipe import Batch

PREFIXES = ("", "module.", "backbone.", "body.", "backbone.body.")
"""what names of parameters may begin with in one network and not in another: a trunk by itself, or inside"""
_NAMED = 6


def start_from(model: nn.Module, path: Path, samples: Dataset[Batch], echo: Callable[[str], None]) -> None:
    """Load into `model` what `path`, a checkpoint or an exported model (.onnx), has for it; say what was left out.

    `samples` are those that training will see. Raises ModelError when nothing fits.
    """
    if path.suffix != ".onnx":
        take_weights(model, load_weights(path), path.name, echo)
        return
    if take_weights(model, exported_weights(model, path), path.name, echo):
        check_answers(model, path)
    measure_norms(model, samples)


def take_weights(
    model: nn.Module, weights: Mapping[str, torch.Tensor], source: str, echo: Callable[[str], None]
) -> bool:
    """Load into `model` the weights of the same name and shape, and say what was left out; whether nothing was.

    Names may differ by one of PREFIXES, so that a classifier's trunk and a detector's backbone fit each other, and a
    torchvision ResNet fits both. `source` names where they are from. Raises ModelError when nothing fits.
    """
    given, own = modern_names(dict(weights)), model.state_dict()
    candidates = [_fitting(own, _renamed(given, prefix, add)) for prefix in PREFIXES for add in (True, False)]
    taken = max(candidates, key=len)
    learned = [name for name in own if not name.endswith("num_batches_tracked")]
    left = [name for name in learned if name not in taken]
    if len(left) == len(learned):
        raise ModelError(f"{source}: its weights are of another network: nothing fits by name and shape.")
    model.load_state_dict(taken, strict=False)
    echo(f"{source}: {len(learned) - len(left)} of {len(learned)} tensors are taken as a start")
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        echo(f"left out, they start anew: {', '.join(left[:_NAMED])}{more}")
    return not left


def _renamed(given: Mapping[str, torch.Tensor], prefix: str, add: bool) -> dict[str, torch.Tensor]:
    if add:
        return {prefix + name: value for name, value in given.items()}
    return {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}


def _fitting(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
