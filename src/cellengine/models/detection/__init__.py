"""Mask R-CNN as one fixed-shape computation: training, inference and export run the same network. No torchvision."""

from cellengine.models.detection.config import MaskRCNNConfig
from cellengine.models.detection.mask_rcnn import MaskRCNN

__all__ = ["MaskRCNN", "MaskRCNNConfig"]
