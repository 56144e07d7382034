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
from cellengine.models.naming import BLOCKS_APART, is_vgg, lacks_norm, vgg_names
from cellengine.train.exported import check_answers, exported_weights, measure_norms
from cellengine.train.recipe import Batch

PREFIXES = ("", "module.", "backbone.", "body.", "backbone.body.")
"""what names of parameters may begin with in one network and not in another: a trunk by itself, or inside"""
COLOURS = 3
_NAMED = 6


def start_from(model: nn.Module, path: Path, samples: Dataset[Batch], echo: Callable[[str], None]) -> None:
    """Load into `model` what `path`, a checkpoint or an exported model (.onnx), has for it; say what was left out.

    `samples` are those that training will see. Raises ModelError when nothing fits.
    """
    if path.suffix != ".onnx":
        weights = load_weights(path)
        take_weights(model, weights, path.name, echo)
        if lacks_norm(weights):
            echo("it has no BatchNorm: that of this network is measured on training samples, and answers the same")
            measure_norms(model, samples)
        return
    if take_weights(model, exported_weights(model, path), path.name, echo):
        check_answers(model, path)
    measure_norms(model, samples)


def take_weights(
    model: nn.Module, weights: Mapping[str, torch.Tensor], source: str, echo: Callable[[str], None]
) -> bool:
    """Load into `model` the weights of the same name and shape, and say what was left out; whether nothing was.

    Names may differ by one of PREFIXES, so that a classifier's trunk and a detector's backbone fit each other, and a
    torchvision ResNet fits both; a torchvision VGG fits the trunks made like it. Kernels on colours fit grey pictures.
    `source` names where they are from. Raises ModelError when nothing fits.
    """
    own = model.state_dict()
    given, summed = _on_grey(weights, own)
    candidates = [
        _fitting(own, _renamed(named, prefix, add))
        for named in _namings(given)
        for prefix in PREFIXES
        for add in (True, False)
    ]
    taken = max(candidates, key=len)
    learned = [name for name in own if not name.endswith("num_batches_tracked")]
    left = [name for name in learned if name not in taken]
    if len(left) == len(learned):
        raise ModelError(f"{source}: its weights are of another network: nothing fits by name and shape.")
    model.load_state_dict(taken, strict=False)
    echo(f"{source}: {len(learned) - len(left)} of {len(learned)} tensors are taken as a start")
    if summed in taken:
        echo(f"for grey pictures the kernels of {summed} are summed over the colours")
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        echo(f"left out, they start anew: {', '.join(left[:_NAMED])}{more}")
    return not left


def _namings(weights: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """`weights` under all names that they may have here."""
    if is_vgg(weights):
        return [vgg_names(weights, apart) for apart in BLOCKS_APART]
    return [modern_names(weights)]


def _on_grey(
    weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], str | None]:
    """`weights` with the first kernels summed over the colours if only `own` is of grey pictures; and their name there.

    A grey picture gives them what it gives the colours' when it is repeated for each colour.
    """
    first, wanted = (next((n for n, v in some.items() if v.ndim > 2), None) for some in (weights, own))
    if first is None or wanted is None or (weights[first].shape[1], own[wanted].shape[1]) != (COLOURS, 1):
        return dict(weights), None
    return {**weights, first: weights[first].sum(1, keepdim=True)}, wanted


def _renamed(given: Mapping[str, torch.Tensor], prefix: str, add: bool) -> dict[str, torch.Tensor]:
    if add:
        return {prefix + name: value for name, value in given.items()}
    return {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}


def _fitting(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
