"""ResNet as a feature extractor (He et al. 2016), with torchvision's names of parameters, at any width."""

from __future__ import annotations

from typing import Literal, Protocol, cast

import torch
from torch import nn

from cellengine.models.detection.config import BLOCKS


class BodyConfig(Protocol):
    """What a ResNet is made from: part of the configuration of every network that stands on one."""

    @property
    def channels_in(self) -> int:
        """Channels of the picture."""

    @property
    def depth(self) -> Literal[18, 34, 50, 101]:
        """Layers."""

    @property
    def width(self) -> int:
        """Channels of the first stage; each further one has twice as many."""

    @property
    def stem_stride(self) -> Literal[2, 4]:
        """px between the features of the first stage."""


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut: 18 and 34 layers."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels_in, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) to (N, channels, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        return cast(torch.Tensor, self.relu(self.bn2(self.conv2(y)) + (self.downsample(x) if self.downsample else x)))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (which has the stride) and 1 x 1 convolutions around a shortcut: 50 and 101 layers."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, self.expansion * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels_in, self.expansion * channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) to (N, 4 channels, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return cast(torch.Tensor, self.relu(self.bn3(self.conv3(y)) + (self.downsample(x) if self.downsample else x)))


def shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """A projection where shapes differ; None where the input itself is added."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


class ResNetShape(Protocol):
    """What a configuration says of its ResNet."""

    @property
    def channels_in(self) -> int:
        """Channels of the picture."""
        ...

    @property
    def depth(self) -> int:
        """18, 34, 50 or 101 layers."""
        ...

    @property
    def width(self) -> int:
        """Channels of the first stage."""
        ...

    @property
    def stem_stride(self) -> int:
        """px between the features of the first stage: 4, or 2 without the pooling of the stem."""
        ...


class ResNet(nn.Module):
    """Input (N, channels_in, H, W); features of four stages at strides 1, 2, 4 and 8 times the stem's."""

    def __init__(self, config: BodyConfig) -> None:
        super().__init__()
        block = Bottleneck if config.depth >= 50 else BasicBlock
        self.conv1 = nn.Conv2d(config.channels_in, config.width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if config.stem_stride == 4 else nn.Identity()
        channels_in = config.width
        for stage, count in enumerate(BLOCKS[config.depth]):
            channels = config.width * 2**stage
            layers = []
            for i in range(count):
                layers.append(block(channels_in, channels, 2 if stage and not i else 1))
                channels_in = channels * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of the four stages, finest first."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for stage in range(4):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            maps.append(x)
        return maps
