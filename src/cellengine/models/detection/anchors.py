"""Anchors: the boxes that proposals start from, of a few shapes at every feature of a pyramid level."""

from __future__ import annotations

import torch

from cellengine.models.detection.config import MaskRCNNConfig


def anchor_shapes(side_px: float, ratios: tuple[float, ...]) -> list[list[float]]:
    """Anchors (x0, y0, x1, y1) around the origin, whole px as torchvision has them; a ratio is height over width."""
    shapes = []
    for ratio in ratios:
        height = side_px * ratio**0.5
        width = side_px / ratio**0.5
        shapes.append([float(round(v)) for v in (-width / 2, -height / 2, width / 2, height / 2)])
    return shapes


def level_anchors(config: MaskRCNNConfig, level: int, height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Anchors (height * width * ratios, 4) of a level's feature map, px, in float32 on the device of `like`.

    They lie in raster order of the features, shapes within; the one of feature (y, x) is centred on its first pixel.
    """
    shapes = torch.tensor(anchor_shapes(config.anchor_px[level], config.anchor_ratios), device=like.device)
    stride = config.strides[level]
    x = torch.arange(width, device=like.device, dtype=torch.float32) * stride
    y = torch.arange(height, device=like.device, dtype=torch.float32) * stride
    x, y = x[None, :].expand(height, width), y[:, None].expand(height, width)
    places = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (places + shapes).reshape(-1, 4)
