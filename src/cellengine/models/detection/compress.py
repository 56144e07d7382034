"""Truncated singular values of the box head (Girshick 2015): W ~ U S V turns u v weights into rank (u + v)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from cellengine.errors import UsageError
from cellengine.models.detection.heads import LowRank
from cellengine.models.detection.mask_rcnn import MaskRCNN


def compress(module: MaskRCNN, rank: int) -> MaskRCNN:
    """A network with both layers of the box head at `rank`; everything else is a copy. Training mode is kept.

    Raises UsageError when a layer has no more than `rank` of itself, or is compressed already.
    """
    head = module.roi_heads.box_head
    layers = {"fc6": head.fc6, "fc7": head.fc7}
    state = module.state_dict()
    for name, layer in layers.items():
        if not isinstance(layer, nn.Linear):
            raise UsageError("The box head is compressed already: export the checkpoint it was trained as.")
        largest = min(layer.in_features, layer.out_features)
        if not 0 < rank < largest:
            raise UsageError(f"--svd-rank {rank}: the layer {name} has a rank of {largest}; take 1 ... {largest - 1}.")
        place = f"roi_heads.box_head.{name}"
        u, s, v = torch.linalg.svd(state.pop(f"{place}.weight").double(), full_matrices=False)
        root = s[:rank].sqrt()
        state[f"{place}.0.weight"] = (root[:, None] * v[:rank]).to(layer.weight.dtype)
        state[f"{place}.1.weight"] = (u[:, :rank] * root).to(layer.weight.dtype)
        state[f"{place}.1.bias"] = state.pop(f"{place}.bias")
    small = MaskRCNN(replace(module.config, svd_rank=rank)).to(module.pixel_mean.device)
    small.load_state_dict(state)
    assert isinstance(small.roi_heads.box_head.fc6, LowRank)
    return small.train(module.training)
