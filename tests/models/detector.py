"""A tiny detector whose random weights find something, for tests of the network, its export and its training."""

from __future__ import annotations

import torch

from cellengine.models.detection import MaskRCNN, MaskRCNNConfig

TINY = MaskRCNNConfig(
    channels_in=1,
    depth=18,
    width=4,
    stem_stride=2,
    pyramid=8,
    pyramid_norm=True,
    box_features=16,
    mask_features=8,
    anchor_px=(8.0, 16.0, 32.0, 64.0),
    candidates=40,
    proposals=30,
    detections=12,
    detection_iou=0.3,
    min_score=0.3,
    canonical_px=56.0,
    suppression_depth=12,
)


def detector(config: MaskRCNNConfig = TINY, seed: int = 0) -> MaskRCNN:
    """Random weights; those of the last layers are larger, so that the answer differs from place to place."""
    torch.manual_seed(seed)
    module = MaskRCNN(config)
    with torch.no_grad():
        for name, factor in (("rpn.head.cls_logits", 60), ("rpn.head.bbox_pred", 10)):
            module.get_submodule(name).weight *= factor
        module.roi_heads.box_predictor.cls_score.weight *= 6
        module.roi_heads.mask_predictor.mask_fcn_logits.weight *= 3
    return module.eval()
