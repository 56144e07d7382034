"""U-Net in 2D and 3D (Ronneberger et al. 2015; Çiçek et al. 2016) with named heads that answer in 0..1."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import torch
from torch import nn

from cellengine.models.blocks import CONV, MAX_POOL, ConvBlock, Up, recompute
from cellengine.spec import Output, OutputName


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """Shape of the network."""

    kind: Literal["unet"] = "unet"
    dims: int = 2
    channels_in: int = 3
    widths: tuple[int, ...] = (24, 48, 96, 128, 160)
    """channels at each resolution; one pooling between neighbours"""
    strides: tuple[tuple[int, ...], ...] | None = None
    """pooling per level and axis; None pools by 2 everywhere (less in z suits anisotropic voxels)"""
    heads: tuple[OutputName, ...] = ("foreground", "distance")
    """outputs, one channel each, activated by a sigmoid; `classes` has `classes` channels, activated by a softmax"""
    classes: int = 0
    """channels of the head `classes`"""
    convolutions: int = 2
    """convolutions per block"""

    def __post_init__(self) -> None:
        if self.dims not in (2, 3):
            raise ValueError(f"dims is {self.dims}; a U-Net has 2 or 3.")
        if len(self.pooling) != len(self.widths) - 1 or any(len(s) != self.dims for s in self.pooling):
            raise ValueError(f"strides {self.strides} do not fit {len(self.widths)} widths in {self.dims}D.")
        if ("classes" in self.heads) != (self.classes > 1):
            raise ValueError(f"{self.classes} classes and the heads {', '.join(self.heads)} do not fit each other.")

    @property
    def pooling(self) -> tuple[tuple[int, ...], ...]:
        """Pooling factor of each level per axis."""
        return self.strides or ((2,) * self.dims,) * (len(self.widths) - 1)

    @property
    def divisor(self) -> tuple[int, ...]:
        """What the sides of the input must be multiples of: the product of the poolings, per axis."""
        divisor = [1] * self.dims
        for stride in self.pooling:
            divisor = [d * s for d, s in zip(divisor, stride, strict=True)]
        return tuple(divisor)

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Voxels on each side of an output voxel that can change it, per axis: exact, the worst over all positions."""
        return tuple(
            max(max(p - low, high - p) for p in range(divisor) for low, high in [self._needs(axis, 0, p, p)])
            for axis, divisor in enumerate(self.divisor)
        )

    @property
    def activation_bytes(self) -> float:
        """Memory per input voxel for what is alive at once in fp32: skip, joined and two working maps a level."""
        total, scale = 0.0, 1.0
        for level, width in enumerate(self.widths):
            total += 5 * width * 4 / scale
            if level < len(self.pooling):
                scale *= prod(self.pooling[level])
        return round(total)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What the network answers, in order."""
        return tuple(Output(name, self.classes if name == "classes" else 1) for name in self.heads)

    def _needs(self, axis: int, level: int, low: int, high: int) -> tuple[int, int]:
        """The input voxels of `level` (inclusive) that its output voxels low..high depend on, along `axis`."""
        low, high = low - self.convolutions, high + self.convolutions
        if level == len(self.widths) - 1:
            return low, high
        stride = self.pooling[level][axis]
        below, above = self._needs(axis, level + 1, low // stride, high // stride)
        low, high = min(low, below * stride), max(high, above * stride + stride - 1)
        return low - self.convolutions, high + self.convolutions


class UNet(nn.Module):
    """Input (N, channels_in, *spatial) float32, sides multiples of `config.divisor`; (N, c, *spatial) out, a head."""

    HEADS: ClassVar[tuple[str, ...]] = ("heads.",)

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        """keep only the inputs of each block while training and compute the rest again: less memory, more time"""
        dims, widths = config.dims, config.widths
        sources = (config.channels_in, *widths[:-1])
        self.down = nn.ModuleList(
            ConvBlock(dims, a, b, config.convolutions) for a, b in zip(sources, widths, strict=True)
        )
        self.pool = nn.ModuleList(MAX_POOL[dims](s) for s in config.pooling)
        self.up = nn.ModuleList(
            Up(dims, widths[i + 1], widths[i], config.pooling[i], config.convolutions)
            for i in reversed(range(len(widths) - 1))
        )
        self.heads = nn.ModuleDict({out.name: CONV[dims](widths[0], out.channels, 1) for out in config.outputs})

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The last feature map, (N, widths[0], *spatial)."""
        skips = []
        for block, pool in zip(self.down, self.pool, strict=False):
            x = self._run(block, x)
            skips.append(x)
            x = pool(x)
        x = self._run(self.down[-1], x)
        for up in self.up:
            x = self._run(up, x, skips.pop())
        return x

    def _run(self, block: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        if self.checkpointing and self.training:
            return recompute(block, *inputs)
        answer: torch.Tensor = block(*inputs)
        return answer

    def logits(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the losses are computed on."""
        features = self.features(x)
        return {name: head(features) for name, head in self.heads.items()}

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Values in 0..1 per head; those of `classes` sum to 1."""
        logits = self.logits(image)
        return {name: x.softmax(1) if name == "classes" else torch.sigmoid(x) for name, x in logits.items()}
