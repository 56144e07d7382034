"""The network of a model file in PyTorch, for peers that run it there."""

from __future__ import annotations

import torch

from cellengine.engine.model_file import resolve_model
from cellengine.models import build
from cellengine.train.config import load_config
from cellengine.train.exported import check_answers, exported_weights
from cellengine.train.start import take_weights


def module_of(model: str, preset: str) -> torch.nn.Module:
    """The network of the preset with the weights of a model file, whose golden test it must answer."""
    module, path = build(load_config(preset).model), resolve_model(model)
    if not take_weights(module, exported_weights(module, path), path.name, print):
        raise SystemExit(f"{path.name} is not the network of {preset}")
    check_answers(module.eval(), path)
    return module
