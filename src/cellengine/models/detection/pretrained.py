"""Weights from torchvision: a `maskrcnn_resnet*_fpn` checkpoint, or a ResNet trained on ImageNet, from a local file."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from cellengine.errors import ModelError
from cellengine.models.detection.mask_rcnn import MaskRCNN

RENAMED = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
    (re.compile(r"^roi_heads\.mask_head\.mask_fcn1\.(weight|bias)$"), r"roi_heads.mask_head.0.0.\1"),
    (re.compile(r"^roi_heads\.mask_head\.mask_fcn2\.(weight|bias)$"), r"roi_heads.mask_head.1.0.\1"),
    (re.compile(r"^roi_heads\.mask_head\.mask_fcn3\.(weight|bias)$"), r"roi_heads.mask_head.2.0.\1"),
    (re.compile(r"^roi_heads\.mask_head\.mask_fcn4\.(weight|bias)$"), r"roi_heads.mask_head.3.0.\1"),
)
"""names of parameters before torchvision 0.13 -> since"""
OF_CLASSES = ("box_predictor.cls_score.", "box_predictor.bbox_pred.", "mask_predictor.mask_fcn_logits.")
"""what depends on the number of classes; report A leaves it out when it starts from COCO"""


def load_pretrained(module: MaskRCNN, state: Mapping[str, torch.Tensor], where: str) -> list[str]:
    """Load a torchvision state dictionary into `module`; returns the names of `module` that kept their own weights.

    Heads of another number of classes are left out, nothing else. `where` names the file in errors. Checkpoints with
    the names of before torchvision 0.13 were trained with BatchNorm's epsilon at 0, which is taken off the variances.

    Raises ModelError when the checkpoint is of another network.
    """
    is_body = "conv1.weight" in state
    old = "rpn.head.conv.weight" in state
    given = {_rename(f"backbone.body.{name}" if is_body else name): value for name, value in state.items()}
    if old:
        given = {k: (v - 1e-5).clamp_min(0) if k.endswith("running_var") else v for k, v in given.items()}
    own = module.state_dict()
    taken, problems = {}, []
    for name, value in given.items():
        if name in own and own[name].shape == value.shape:
            taken[name] = value
        elif name in own and not any(part in name for part in OF_CLASSES):
            problems.append(f"{name} is {tuple(value.shape)}, expected {tuple(own[name].shape)}")
        elif name not in own and not name.startswith("backbone.body.fc."):
            problems.append(f"{name} is not known")
    kept = [name for name in own if name not in taken and not name.endswith("num_batches_tracked")]
    allowed = {"pixel_mean", "pixel_std"}
    missing = [
        name
        for name in kept
        if name not in allowed
        and not any(part in name for part in OF_CLASSES)
        and (not is_body or name.startswith("backbone.body."))
    ]
    if problems or missing:
        reason = problems[0] if problems else f"{missing[0]} is missing"
        raise ModelError(
            f"{where}: the checkpoint is of another network ({reason}); choose the preset it was made for."
        )
    module.load_state_dict(taken, strict=False)
    return kept


def _rename(name: str) -> str:
    for old, new in RENAMED:
        name = old.sub(new, name)
    return name
