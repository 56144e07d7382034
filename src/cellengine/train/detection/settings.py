"""What a detector's training is told, beyond what every training is. Frozen; the defaults are torchvision's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DetectionConfig:
    """Which boxes are learnt from, and how many (Ren et al. 2015; He et al. 2017)."""

    objects: int = 500
    """objects of a crop that are learnt, at most; the others are taken for background"""
    min_object_px: int = 8
    """objects of which the crop shows less are taken for background"""
    anchors: int = 256
    """anchors of a crop that the proposals' losses are computed on"""
    positive_anchors: float = 0.5
    """share of them, at most, that lie on an object"""
    anchor_iou: tuple[float, float] = (0.3, 0.7)
    """below the first an anchor is background, from the second on it is an object, in between it is not used; the
    best anchors of each object are objects whatever their overlap"""
    candidates: int = 2000
    """best anchors of each level that enter the suppression while training"""
    proposals: int = 2000
    """boxes that it passes on"""
    boxes: int = 512
    """of these, with the true boxes, so many of a crop are learnt by the box head"""
    positive_boxes: float = 0.25
    """share of them, at most, that lie on an object; these alone teach boxes and masks"""
    box_jitter: float = 0.0
    """standard deviation of how far the edges of the true boxes among them are moved, in sides of the box: true boxes
    as they are teach the heads nothing about mending boxes"""
    box_iou: tuple[float, float] = (0.0, 0.5)
    """from the second on a box is an object; from the first on, below the second, it is background"""
    freeze_norm: bool = False
    """keep BatchNorm's statistics and factors as they are; for small batches that start from learnt weights"""

    def __post_init__(self) -> None:
        if not self.boxes <= self.proposals + self.objects:
            raise ValueError(f"{self.boxes} boxes cannot be drawn from {self.proposals} proposals.")
        for name in ("anchor_iou", "box_iou"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1:
                raise ValueError(f"{name} is {low}, {high}; expected two rising numbers between 0 and 1.")
