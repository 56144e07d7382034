"""Torch networks of the four families, their checkpoints, and the torch session. No data, no training."""

from __future__ import annotations

import json
from dataclasses import dataclass

from torch import nn

from cellengine.errors import ModelError
from cellengine.models.classifier import VGG, ResNetClassifier, ResNetConfig, VGGConfig
from cellengine.models.detection import MaskRCNN, MaskRCNNConfig
from cellengine.models.fcn import FCN, FCNConfig
from cellengine.models.hourglass import Hourglass, HourglassConfig
from cellengine.models.unet import UNet, UNetConfig
from cellengine.records import RecordError, from_plain

ModelConfig = UNetConfig | FCNConfig | HourglassConfig | VGGConfig | ResNetConfig | MaskRCNNConfig

MODELS: dict[type, type[nn.Module]] = {
    UNetConfig: UNet,
    FCNConfig: FCN,
    HourglassConfig: Hourglass,
    VGGConfig: VGG,
    ResNetConfig: ResNetClassifier,
    MaskRCNNConfig: MaskRCNN,
}


@dataclass(frozen=True, slots=True)
class _Network:
    """A configuration as checkpoints keep it, told apart by its field `kind`."""

    network: ModelConfig


def read_config(text: str, where: str) -> ModelConfig:
    """A network's configuration out of a checkpoint's JSON; `where` names the file. Raises ModelError."""
    try:
        return from_plain(_Network, {"network": json.loads(text)}).network
    except (json.JSONDecodeError, RecordError) as error:
        raise ModelError(f"{where}: its network is not known here ({error}); update cellengine.") from error


def build(config: ModelConfig) -> nn.Module:
    """A network with fresh weights for `config`."""
    return MODELS[type(config)](config)


__all__ = [
    "FCN",
    "MODELS",
    "VGG",
    "FCNConfig",
    "Hourglass",
    "HourglassConfig",
    "MaskRCNN",
    "MaskRCNNConfig",
    "ModelConfig",
    "ResNetClassifier",
    "ResNetConfig",
    "UNet",
    "UNetConfig",
    "VGGConfig",
    "build",
    "read_config",
]
