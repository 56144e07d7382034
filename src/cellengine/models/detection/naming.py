"""Names of parameters of torchvision's Mask R-CNN: its COCO weights bear those of before version 0.13."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

RENAMED = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
    (re.compile(r"^roi_heads\.mask_head\.mask_fcn1\.(weight|bias)$"), r"roi_heads.mask_head.0.0.\1"),
    (re.compile(r"^roi_heads\.mask_head\.mask_fcn2\.(weight|bias)$"), r"roi_heads.mask_head.1.0.\1"),
    (re.compile(r"^roi_heads\.mask_head\.mask_fcn3\.(weight|bias)$"), r"roi_heads.mask_head.2.0.\1"),
    (re.compile(r"^roi_heads\.mask_head\.mask_fcn4\.(weight|bias)$"), r"roi_heads.mask_head.3.0.\1"),
)
EPSILON = 1e-5
"""of BatchNorm here and in torchvision today"""


def modern_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` with today's names; a state dictionary of another network or of today comes back as it is.

    The old COCO weights were trained with an epsilon of 0 in BatchNorm, so it is taken off their variances.
    """
    if "rpn.head.conv.weight" not in state:
        return dict(state)
    return {
        _rename(name): (value - EPSILON).clamp_min(0) if name.endswith("running_var") else value
        for name, value in state.items()
    }


def _rename(name: str) -> str:
    for old, new in RENAMED:
        name = old.sub(new, name)
    return name
