"""Mask R-CNN (He et al. 2017) with fixed shapes throughout: what is trained is what is exported is what runs."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from cellengine.models.detection.boxes import at_least, clip, decode
from cellengine.models.detection.config import MaskRCNNConfig
from cellengine.models.detection.heads import BOX_SIZE, MASK_SIZE, RoiHeads
from cellengine.models.detection.proposals import NOTHING, Proposals, take
from cellengine.models.detection.pyramid import Backbone
from cellengine.models.detection.roi_align import RoiAlign
from cellengine.models.detection.suppression import suppress

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""scale of the coded boxes of the box head: 1 / report A's deviations of 0.1 0.1 0.2 0.2"""
SMALLEST_PX = 1e-2
MOST_CANDIDATES = 2000
"""boxes of any class that enter the last suppression, at most"""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MaskRCNN(nn.Module):
    """Input (N, channels_in, H, W) float32 in about 0..1, sides multiples of `config.divisor`.

    Output, with K = `config.detections`, best first, all float32; beyond `count` everything is 0:

        boxes    (N, K, 4)        y0, x0, y1, x1 in px of the input, inside it
        scores   (N, K)           0..1
        classes  (N, K)           0 ... classes - 1
        masks    (N, K, 28, 28)   probability of the object over its box
        count    (N,)             how many objects there are

    Coordinates, rankings and suppression are computed in float32 in every precision. Parameters bear the names that
    torchvision's `maskrcnn_resnet50_fpn` gives them; `pixel_mean` and `pixel_std` are measured on the training set.
    """

    HEADS: ClassVar[tuple[str, ...]] = ("backbone.fpn.", "rpn.", "roi_heads.")
    """beginnings of the names of what is trained while the body keeps its weights"""

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        self.config = config
        rgb = config.channels_in == 3
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if rgb else ((0.5,), (0.25,))
        self.register_buffer("pixel_mean", torch.tensor(mean).expand(config.channels_in).clone())
        self.register_buffer("pixel_std", torch.tensor(std).expand(config.channels_in).clone())
        self.backbone = Backbone(config)
        self.rpn = Proposals(config)
        self.roi_heads = RoiHeads(config)
        self.roi_align = RoiAlign(config)

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The feature pyramid, finest first."""
        scaled = (image - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None]
        levels: list[torch.Tensor] = self.backbone(scaled.to(self.backbone.body.conv1.weight.dtype))
        return levels

    def classify(self, maps: list[torch.Tensor], boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits (N, K, classes + 1) and deltas (N, K, classes + 1, 4) of boxes (N, K, 4), float32."""
        n, k = boxes.shape[:2]
        logits, deltas = self.roi_heads.classify(self.roi_align(maps, boxes, BOX_SIZE))
        return logits.reshape(n, k, -1), deltas.reshape(n, k, -1, 4)

    def mask_logits(self, maps: list[torch.Tensor], boxes: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Mask logits (N, K, 28, 28) of boxes (N, K, 4) for their classes (N, K): whole numbers from 0, int64."""
        n, k = boxes.shape[:2]
        logits = self.roi_heads.masks(self.roi_align(maps, boxes, MASK_SIZE))
        side = 2 * MASK_SIZE
        if self.config.classes == 1:
            return logits[:, 1].reshape(n, k, side, side)
        index = (classes.reshape(-1, 1, 1, 1) + 1).expand(-1, 1, side, side)
        return torch.gather(logits, 1, index).reshape(n, k, side, side)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """The detections; see the class."""
        maps = self.features(image)
        logits, deltas = self.rpn.head(maps)
        proposals, objectness = self.rpn(maps, logits, deltas)
        boxes, scores, classes = self._detect(maps, proposals, objectness, image.shape[2], image.shape[3])
        found = scores > 0
        present = found.to(boxes.dtype)
        masks = torch.sigmoid(self.mask_logits(maps, boxes, classes))
        return {
            "boxes": torch.stack([boxes[..., 1], boxes[..., 0], boxes[..., 3], boxes[..., 2]], dim=-1),
            "scores": scores,
            "classes": classes.to(boxes.dtype) * present,
            "masks": masks * present[..., None, None],
            "count": present.sum(dim=1),
        }

    def _detect(
        self, maps: list[torch.Tensor], proposals: torch.Tensor, objectness: torch.Tensor, height: int, width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes (N, detections, 4), scores and classes (N, detections), best first; 0 beyond the last one."""
        config = self.config
        logits, deltas = self.classify(maps, proposals)
        scores = torch.softmax(logits, dim=2)[..., 1:]
        boxes = clip(decode(deltas[:, :, 1:], proposals[:, :, None, :], BOX_WEIGHTS), height, width)
        real = (objectness > NOTHING / 2)[..., None] & at_least(boxes, SMALLEST_PX) & (scores > config.min_score)
        scores = torch.where(real, scores, torch.zeros_like(scores)).flatten(1)
        most = min(config.proposals * config.classes, max(MOST_CANDIDATES, config.detections))
        scores, index = torch.topk(scores, most, dim=1)
        boxes, classes = take(boxes.flatten(1, 2), index), index % config.classes
        keep = suppress(boxes, config.detection_iou, config.suppression_depth, None if config.classes == 1 else classes)
        count = min(config.detections, most)
        scores, index = torch.topk(scores * keep, count, dim=1)
        boxes, classes = take(boxes, index), torch.gather(classes, 1, index)
        return boxes * (scores > 0).to(boxes.dtype)[..., None], scores, classes
