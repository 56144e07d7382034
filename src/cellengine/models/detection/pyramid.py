"""Feature pyramid on a ResNet (Lin et al. 2017): coarse maps added to fine ones, so that each level knows the scene."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cellengine.models.detection.config import ROI_LEVELS, MaskRCNNConfig
from cellengine.models.detection.resnet import ResNet


class ConvUnit(nn.Sequential):
    """A convolution that keeps the sides, with BatchNorm and ReLU where asked for; torchvision's names."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, norm: bool, relu: bool) -> None:
        layers: list[nn.Module] = [nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=not norm)]
        if norm:
            layers.append(nn.BatchNorm2d(channels_out))
        if relu:
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class FeaturePyramid(nn.Module):
    """Maps of the four stages of a ResNet to as many maps of `config.pyramid` channels, and a fifth where asked for."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        width, norm = config.pyramid, config.pyramid_norm
        self.levels = len(config.anchor_px)
        self.inner_blocks = nn.ModuleList(
            ConvUnit(channels, width, 1, norm=norm, relu=False) for channels in config.body_channels
        )
        self.layer_blocks = nn.ModuleList(
            ConvUnit(width, width, 3, norm=norm, relu=False) for _ in config.body_channels
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Finest first; the fifth level is every second feature of the fourth."""
        laterals = [block(x) for block, x in zip(self.inner_blocks, maps, strict=True)]
        top = laterals[-1]
        merged = [top]
        for lateral in reversed(laterals[:-1]):
            top = lateral + functional.interpolate(top, scale_factor=2.0, mode="nearest")
            merged.insert(0, top)
        levels = [block(x) for block, x in zip(self.layer_blocks, merged, strict=True)]
        if self.levels > ROI_LEVELS:
            levels.append(functional.max_pool2d(levels[-1], 1, 2))
        return levels


class Backbone(nn.Module):
    """Picture to pyramid."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        self.body = ResNet(config)
        self.fpn = FeaturePyramid(config)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """(N, channels_in, H, W) to maps (N, pyramid, H / stride, W / stride), finest first."""
        levels: list[torch.Tensor] = self.fpn(self.body(image))
        return levels
