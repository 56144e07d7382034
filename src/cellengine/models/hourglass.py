"""Small fully convolutional networks: down, up, and a 1 x 1 convolution to classes, without skip connections.

The first networks that were tried on white blood cells (report E): `wbc-fcn1` ... `wbc-fcn3` are presets of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from cellengine.models.blocks import BATCH_NORM, CONV, MAX_POOL
from cellengine.models.reach import Layer, receptive_field
from cellengine.spec import Output


@dataclass(frozen=True, slots=True)
class HourglassConfig:
    """Shape of the network."""

    kind: Literal["hourglass"] = "hourglass"
    dims: int = 2
    channels_in: int = 3
    classes: int = 3
    widths: tuple[int, ...] = (16,)
    """channels of each convolution on the way down, a pooling by 2 after each; the way up has the same in reverse"""
    kernel: int = 5
    norm: bool = False
    """BatchNorm after each convolution"""

    def __post_init__(self) -> None:
        if not self.widths or self.kernel % 2 == 0 or self.dims not in (2, 3):
            raise ValueError("an hourglass has at least one width, an odd kernel, and 2 or 3 dims.")

    @property
    def divisor(self) -> tuple[int, ...]:
        """What the sides of the input must be multiples of."""
        return (2 ** len(self.widths),) * self.dims

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Voxels on each side of an output voxel that can change it, the worst over all positions."""
        down = [Layer("conv", self.kernel // 2), Layer("pool", 2)] * len(self.widths)
        up = [Layer("conv", self.kernel // 2), Layer("repeat", 2)] * len(self.widths)
        return (receptive_field([*down, *up]),) * self.dims

    @property
    def activation_bytes(self) -> float:
        """Memory per input voxel for what is alive at once in fp32."""
        return 8.0 * max(self.widths[0], self.channels_in) + 8.0 * self.widths[0]

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Probabilities of classes."""
        return (Output("classes", self.classes),)


class Hourglass(nn.Module):
    """Input (N, channels_in, *spatial) float32, sides multiples of `config.divisor`; classes (N, classes, *spatial)."""

    HEADS: ClassVar[tuple[str, ...]] = ("score.",)

    def __init__(self, config: HourglassConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels = config.channels_in
        for width in config.widths:
            layers += [*self._convolution(channels, width), MAX_POOL[config.dims](2)]
            channels = width
        for width in reversed(config.widths):
            layers += [*self._convolution(channels, width), nn.Upsample(scale_factor=2.0, mode="nearest")]
            channels = width
        self.body = nn.Sequential(*layers)
        self.score = CONV[config.dims](channels, config.classes, 1)

    def _convolution(self, channels_in: int, channels_out: int) -> list[nn.Module]:
        config = self.config
        norm = [BATCH_NORM[config.dims](channels_out)] if config.norm else []
        half = config.kernel // 2
        return [CONV[config.dims](channels_in, channels_out, config.kernel, padding=half), *norm, nn.ReLU(inplace=True)]

    def logits(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the losses are computed on."""
        return {"classes": self.score(self.body(x))}

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Probabilities, which sum to 1 over the classes."""
        return {"classes": torch.softmax(self.logits(image)["classes"], 1)}
