"""Region proposals (Ren et al. 2015): which anchors hold an object, and where it really lies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from cellengine.models.detection.anchors import level_anchors
from cellengine.models.detection.boxes import at_least, clip, decode
from cellengine.models.detection.config import MaskRCNNConfig
from cellengine.models.detection.pyramid import ConvUnit
from cellengine.models.detection.suppression import suppress

WEIGHTS = (1.0, 1.0, 1.0, 1.0)
"""scale of the coded boxes of anchors"""
NOTHING = -1e9
"""score of a box that is none: fills up what a small picture lacks"""
SMALLEST_PX = 1e-3


class ProposalHead(nn.Module):
    """One small convolutional network for every level."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        shapes = len(config.anchor_ratios)
        self.conv = nn.Sequential(ConvUnit(config.pyramid, config.pyramid, 3, norm=config.pyramid_norm, relu=True))
        self.cls_logits = nn.Conv2d(config.pyramid, shapes, 1)
        self.bbox_pred = nn.Conv2d(config.pyramid, 4 * shapes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Per level: logits (N, H * W * shapes) and deltas (N, H * W * shapes, 4), float32, in order of the anchors."""
        logits, deltas = [], []
        for level in maps:
            hidden = self.conv(level)
            n = hidden.shape[0]
            logits.append(self.cls_logits(hidden).permute(0, 2, 3, 1).reshape(n, -1).float())
            deltas.append(self.bbox_pred(hidden).permute(0, 2, 3, 1).reshape(n, -1, 4).float())
        return logits, deltas


class Proposals(nn.Module):
    """The head, and the fixed number of boxes that pass."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.head = ProposalHead(config)

    def forward(
        self,
        maps: Sequence[torch.Tensor],
        logits: Sequence[torch.Tensor],
        deltas: Sequence[torch.Tensor],
        candidates: int | None = None,
        count: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (N, count, 4) inside the picture, px, best first; and their logits, `NOTHING` for what is no box.

        `logits` and `deltas` are the head's. Each level passes its best `candidates` through a suppression of its own.
        Both numbers are by default the configuration's.
        """
        config = self.config
        height, width = maps[0].shape[2] * config.strides[0], maps[0].shape[3] * config.strides[0]
        each = candidates or config.candidates
        found = [self._candidates(i, maps[i], logits[i], deltas[i], each) for i in range(len(maps))]
        scores = torch.stack([score for score, _ in found], dim=1)
        boxes = clip(torch.stack([box for _, box in found], dim=1), height, width)
        keep = suppress(boxes, config.proposal_iou, config.suppression_depth) > 0
        scores = torch.where(keep & at_least(boxes, SMALLEST_PX), scores, torch.full_like(scores, NOTHING))
        best, index = torch.topk(scores.flatten(1), count or config.proposals, dim=1)
        return take(boxes.flatten(1, 2), index), best

    def _candidates(
        self, level: int, features: torch.Tensor, logits: torch.Tensor, deltas: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, count) and boxes (N, count, 4) of the best anchors of a level."""
        height, width = features.shape[2], features.shape[3]
        anchors = level_anchors(self.config, level, height, width, features)
        if self.config.peaks:
            logits = peaks(logits, height, width)
        filled = torch.cat([logits, logits.new_full((logits.shape[0], count), NOTHING)], dim=1)
        best, index = torch.topk(filled, count, dim=1)
        boxes = decode(
            take(torch.cat([deltas, deltas.new_zeros(deltas.shape[0], count, 4)], dim=1), index),
            torch.cat([anchors, anchors.new_zeros(count, 4)])[index],
            WEIGHTS,
        )
        return best, boxes


def peaks(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Logits (N, height * width * shapes) of a level, `NOTHING` where another shape or one of 8 neighbours has more."""
    by_place = logits.reshape(logits.shape[0], height, width, -1)
    around = functional.max_pool2d(by_place.amax(dim=3)[:, None], 3, 1, 1)[:, 0]
    kept = torch.where(by_place >= around[..., None], by_place, torch.full_like(by_place, NOTHING))
    return kept.flatten(1)


def take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows `index` (N, K) of `values` (N, n, c): (N, K, c)."""
    return torch.gather(values, 1, index[..., None].expand(-1, -1, values.shape[2]))
