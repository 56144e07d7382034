"""Arithmetic of boxes (x0, y0, x1, y1), continuous px: pixel i covers i ... i + 1. Always in float32.

Half precision moves boxes by whole objects: a coordinate of 700 px has steps of 0.5 px in float16.
"""

from __future__ import annotations

import math

import torch

MOST_GROWTH = math.log(1000 / 16)
"""largest logarithm of a change of side, so that exp never overflows"""


def encode(boxes: torch.Tensor, anchors: torch.Tensor, weights: tuple[float, ...]) -> torch.Tensor:
    """How to get from `anchors` to `boxes`, (..., 4) each: (dx, dy, dw, dh) (Girshick et al. 2014), times `weights`.

    Shifts are in sides of the anchor, growth is logarithmic. Sides below 1e-3 px count as that.
    """
    size, anchor_size = (_size(b).clamp_min(1e-3) for b in (boxes, anchors))
    shift = (_centre(boxes) - _centre(anchors)) / anchor_size
    deltas = torch.cat([shift, torch.log(size / anchor_size)], dim=-1)
    return deltas * deltas.new_tensor(weights)


def decode(deltas: torch.Tensor, anchors: torch.Tensor, weights: tuple[float, ...]) -> torch.Tensor:
    """The inverse of `encode`: boxes (..., 4); growth is limited to 62.5 times."""
    scaled = deltas / deltas.new_tensor(weights)
    size = _size(anchors)
    centre = _centre(anchors) + scaled[..., :2] * size
    half = 0.5 * size * torch.exp(scaled[..., 2:].clamp(max=MOST_GROWTH))
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Boxes (..., 4) cut off at the border of a picture."""
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def overlaps(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Areas of intersection and union of each of `a` (..., n, 4) with each of `b` (..., m, 4): (..., n, m), px^2."""
    first, second = a[..., :, None, :], b[..., None, :, :]
    # one axis at a time: narrower intermediate arrays
    width = torch.minimum(first[..., 2], second[..., 2]) - torch.maximum(first[..., 0], second[..., 0])
    height = torch.minimum(first[..., 3], second[..., 3]) - torch.maximum(first[..., 1], second[..., 1])
    both = width.clamp_min(0) * height.clamp_min(0)
    return both, area(a)[..., :, None] + area(b)[..., None, :] - both


def area(boxes: torch.Tensor) -> torch.Tensor:
    """Area of boxes (..., 4), px^2."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def at_least(boxes: torch.Tensor, side_px: float) -> torch.Tensor:
    """Which boxes (..., 4) have both sides of at least `side_px`."""
    sides = _size(boxes)
    return (sides[..., 0] >= side_px) & (sides[..., 1] >= side_px)


def _centre(boxes: torch.Tensor) -> torch.Tensor:
    return 0.5 * (boxes[..., :2] + boxes[..., 2:])


def _size(boxes: torch.Tensor) -> torch.Tensor:
    return boxes[..., 2:] - boxes[..., :2]
