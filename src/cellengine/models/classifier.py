"""Classifiers of whole crops: a VGG with BatchNorm (report C) and ResNets; global pooling takes crops of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from cellengine.models.blocks import ConvBlock
from cellengine.models.detection.resnet import ResNet
from cellengine.spec import Output


@dataclass(frozen=True, slots=True)
class VGGConfig:
    """Shape of the network; the defaults are report C's, VGG-16 without its last block (Simonyan, Zisserman 2015)."""

    kind: Literal["vgg"] = "vgg"
    channels_in: int = 3
    classes: int = 2
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """channels of each block; a pooling by 2 between two"""
    convolutions: tuple[int, ...] = (2, 2, 3, 3)
    hidden: tuple[int, ...] = (1024, 512)
    """widths of the fully connected layers behind the global pooling"""
    dropout: float = 0.1

    dims: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.convolutions):
            raise ValueError(f"{len(self.widths)} widths for {len(self.convolutions)} blocks of convolutions.")

    @property
    def divisor(self) -> tuple[int, ...]:
        """Any size will do."""
        return (1, 1)

    @property
    def least_px(self) -> int:
        """Smallest side of a crop: one px is left after the poolings."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """A classifier sees whole crops, which are never tiled: no surrounding is needed."""
        return (0, 0)

    @property
    def activation_bytes(self) -> float:
        """Memory per input px for what is alive at once in fp32."""
        return float(12 * max(w / 4**i for i, w in enumerate(self.widths)))

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Probabilities of classes, one row a crop."""
        return (Output("classes", self.classes),)


@dataclass(frozen=True, slots=True)
class ResNetConfig:
    """Shape of the network (He et al. 2016); with the defaults of width and stem it is torchvision's ResNet."""

    kind: Literal["resnet"] = "resnet"
    channels_in: int = 3
    classes: int = 2
    depth: Literal[18, 34, 50, 101] = 18
    width: int = 64
    """channels of the first stage; each further one has twice as many"""
    stem_stride: Literal[2, 4] = 4
    """px between the first stage's features; 2 leaves out a pooling, for crops of 64 px and less"""
    dropout: float = 0.0

    dims: ClassVar[int] = 2

    @property
    def divisor(self) -> tuple[int, ...]:
        """Any size will do."""
        return (1, 1)

    @property
    def least_px(self) -> int:
        """Smallest side of a crop; padded strides leave one px of any."""
        return self.stem_stride

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """A classifier sees whole crops, which are never tiled: no surrounding is needed."""
        return (0, 0)

    @property
    def features(self) -> int:
        """Channels of the last stage."""
        return self.width * 8 * (4 if self.depth >= 50 else 1)

    @property
    def activation_bytes(self) -> float:
        """Memory per input px for what is alive at once in fp32."""
        return round(4 * (self.width / 4 + 4 * self.width / self.stem_stride**2))

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Probabilities of classes, one row a crop."""
        return (Output("classes", self.classes),)


class VGG(nn.Module):
    """Input (N, channels_in, Y, X) float32, sides of at least `config.least_px`; classes (N, classes)."""

    HEADS: ClassVar[tuple[str, ...]] = ("fc.",)

    def __init__(self, config: VGGConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels = config.channels_in
        for i, (width, count) in enumerate(zip(config.widths, config.convolutions, strict=True)):
            layers += [nn.MaxPool2d(2)] * (i > 0) + [ConvBlock(2, channels, width, count)]
            channels = width
        self.trunk = nn.Sequential(*layers)
        head: list[nn.Module] = []
        for width in config.hidden:
            head += [nn.Linear(channels, width), nn.ReLU(inplace=True), nn.Dropout(config.dropout)]
            channels = width
        self.fc = nn.Sequential(*head, nn.Linear(channels, config.classes))

    def logits(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the losses are computed on."""
        return {"classes": self.fc(self.trunk(x).mean((2, 3)))}

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Probabilities, which sum to 1 over the classes."""
        return {"classes": torch.softmax(self.logits(image)["classes"], 1)}


class ResNetClassifier(nn.Module):
    """Input (N, channels_in, Y, X) float32; classes (N, classes). The body's parameters have torchvision's names."""

    HEADS: ClassVar[tuple[str, ...]] = ("fc.",)

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.body = ResNet(config)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(config.features, config.classes)

    def logits(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the losses are computed on."""
        last = self.body(x)[-1]
        return {"classes": self.fc(self.dropout(last.mean((2, 3))))}

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Probabilities, which sum to 1 over the classes."""
        return {"classes": torch.softmax(self.logits(image)["classes"], 1)}
