"""Torch networks of the four families, their checkpoints, and the torch session. No data, no training."""

from __future__ import annotations

import json

from torch import nn

from cellengine.errors import ModelError
from cellengine.models.unet import UNet, UNetConfig
from cellengine.records import RecordError, from_plain

ModelConfig = UNetConfig

MODELS: dict[type, type[nn.Module]] = {UNetConfig: UNet}


def read_config(text: str, where: str) -> ModelConfig:
    """A network's configuration out of a checkpoint's JSON; `where` names the file. Raises ModelError."""
    try:
        return from_plain(UNetConfig, json.loads(text))
    except (json.JSONDecodeError, RecordError) as error:
        raise ModelError(f"{where}: its network is not known here ({error}); update cellengine.") from error


def build(config: ModelConfig) -> nn.Module:
    """A network with fresh weights for `config`."""
    return MODELS[type(config)](config)


__all__ = ["MODELS", "ModelConfig", "UNet", "UNetConfig", "build", "read_config"]
