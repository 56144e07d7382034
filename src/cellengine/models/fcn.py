"""Fully convolutional networks with summed skips, FCN-32s, -16s and -8s (Long, Shelhamer and Darrell 2015), 2D."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional

from cellengine.models.blocks import ConvBlock
from cellengine.models.reach import Layer, receptive_field
from cellengine.spec import Output

STAGES = 5
"""poolings of the VGG trunk: scores of the coarsest stage lie 32 px apart"""


@dataclass(frozen=True, slots=True)
class FCNConfig:
    """Shape of the network; the defaults are narrower than VGG-16 (64, 128, 256, 512, 512 and 4096)."""

    kind: Literal["fcn"] = "fcn"
    channels_in: int = 3
    classes: int = 3
    stride: Literal[8, 16, 32] = 8
    """px between the finest scores that are summed: FCN-8s, -16s or -32s"""
    widths: tuple[int, int, int, int, int] = (16, 32, 64, 128, 128)
    convolutions: tuple[int, int, int, int, int] = (2, 2, 3, 3, 3)
    head_width: int = 256
    """channels of the two layers behind the trunk, which stand for VGG's fully connected ones"""
    head_kernel: int = 7
    dropout: float = 0.5

    dims: ClassVar[int] = 2

    @property
    def divisor(self) -> tuple[int, ...]:
        """What the sides of the input must be multiples of."""
        return (2**STAGES,) * 2

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """px on each side of an output px that can change it; the coarsest scores see farthest."""
        trunk = [layer for n in self.convolutions for layer in (Layer("conv", n), Layer("pool", 2))]
        last = {8: [2, 2, 8], 16: [2, 16], 32: [32]}[self.stride]
        up = [Layer("bilinear", factor) for factor in last]
        return (receptive_field([*trunk, Layer("conv", self.head_kernel // 2), *up]),) * 2

    @property
    def activation_bytes(self) -> float:
        """Memory per input px for what is alive at once in fp32: two maps of the widest stage, and the scores."""
        widest = max(width / 4**stage for stage, width in enumerate(self.widths))
        return float(round(4 * (3 * widest + 3 * self.classes)))

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Probabilities of classes."""
        return (Output("classes", self.classes),)


class FCN(nn.Module):
    """Input (N, channels_in, Y, X) float32, sides multiples of 32; classes (N, classes, Y, X).

    Score layers start at zero, so that training begins from equal probabilities and each skip from no change.
    """

    HEADS: ClassVar[tuple[str, ...]] = ("score.", "head.")

    def __init__(self, config: FCNConfig) -> None:
        super().__init__()
        self.config = config
        sources = (config.channels_in, *config.widths[:-1])
        self.trunk = nn.ModuleList(
            ConvBlock(2, a, b, n) for a, b, n in zip(sources, config.widths, config.convolutions, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        width, half = config.head_width, config.head_kernel // 2
        self.head = nn.Sequential(
            nn.Conv2d(config.widths[-1], width, config.head_kernel, padding=half),
            nn.ReLU(inplace=True),
            nn.Dropout2d(config.dropout),
            nn.Conv2d(width, width, 1),
            nn.ReLU(inplace=True),
            nn.Dropout2d(config.dropout),
        )
        skips = {8: (2, 3), 16: (3,), 32: ()}[config.stride]
        self.score = nn.ModuleDict(
            {f"pool{stage + 1}": nn.Conv2d(config.widths[stage], config.classes, 1) for stage in skips}
        )
        self.score["head"] = nn.Conv2d(width, config.classes, 1)
        for layer in self.score.values():
            for weights in layer.parameters():
                nn.init.zeros_(weights)

    def logits(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the losses are computed on."""
        pooled = {}
        for stage, block in enumerate(self.trunk):
            x = self.pool(block(x))
            pooled[f"pool{stage + 1}"] = x
        scores = self.score["head"](self.head(x))
        for name in ("pool4", "pool3"):
            if name in self.score:
                scores = _enlarge(scores, 2) + self.score[name](pooled[name])
        return {"classes": _enlarge(scores, self.config.stride)}

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Probabilities, which sum to 1 over the classes."""
        return {"classes": torch.softmax(self.logits(image)["classes"], 1)}


def _enlarge(x: torch.Tensor, factor: int) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
