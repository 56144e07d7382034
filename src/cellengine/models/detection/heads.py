"""What is said of each box: its class and corrected corners, and its mask. torchvision's names of parameters."""

from __future__ import annotations

import torch
from torch import nn

from cellengine.models.detection.config import MaskRCNNConfig
from cellengine.models.detection.pyramid import ConvUnit

BOX_SIZE, MASK_SIZE = 7, 14
"""features a side that the heads read; masks come out at twice the second"""


class LowRank(nn.Sequential):
    """A fully connected layer as the product of two thin ones (Girshick 2015): u v weights become rank (u + v)."""

    def __init__(self, features_in: int, features_out: int, rank: int) -> None:
        super().__init__(nn.Linear(features_in, rank, bias=False), nn.Linear(rank, features_out))


class BoxHead(nn.Module):
    """Two fully connected layers."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        width = config.box_features
        self.fc6 = _linear(config.pyramid * BOX_SIZE**2, width, config.svd_rank)
        self.fc7 = _linear(width, width, config.svd_rank)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, pyramid, 7, 7) to (n, box_features)."""
        return torch.relu(self.fc7(torch.relu(self.fc6(x.flatten(1)))))


class BoxPredictor(nn.Module):
    """Class and corners."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        self.cls_score = nn.Linear(config.box_features, config.classes + 1)
        self.bbox_pred = nn.Linear(config.box_features, 4 * (config.classes + 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (n, classes + 1) and deltas (n, classes + 1, 4), float32; class 0 is the background."""
        return self.cls_score(x).float(), self.bbox_pred(x).float().unflatten(1, (-1, 4))


class MaskPredictor(nn.Module):
    """A mask per class at twice the size."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        width = config.mask_features
        self.conv5_mask = nn.ConvTranspose2d(width, width, 2, 2)
        self.relu = nn.ReLU(inplace=True)
        self.mask_fcn_logits = nn.Conv2d(width, config.classes + 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, mask_features, 14, 14) to logits (n, classes + 1, 28, 28), float32."""
        logits: torch.Tensor = self.mask_fcn_logits(self.relu(self.conv5_mask(x)))
        return logits.float()


class RoiHeads(nn.Module):
    """The heads, under the names that torchvision gives them."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        width = config.mask_features
        self.box_head = BoxHead(config)
        self.box_predictor = BoxPredictor(config)
        self.mask_head = nn.Sequential(
            *(ConvUnit(config.pyramid if i == 0 else width, width, 3, norm=False, relu=True) for i in range(4))
        )
        self.mask_predictor = MaskPredictor(config)
        for module in (*self.mask_head.modules(), *self.mask_predictor.modules()):
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def classify(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits (n, classes + 1) and deltas (n, classes + 1, 4) of box features (n, pyramid, 7, 7)."""
        features = features.to(self.box_predictor.cls_score.weight.dtype)
        logits, deltas = self.box_predictor(self.box_head(features))
        return logits, deltas

    def masks(self, features: torch.Tensor) -> torch.Tensor:
        """Mask logits (n, classes + 1, 28, 28) of mask features (n, pyramid, 14, 14)."""
        features = features.to(self.mask_predictor.mask_fcn_logits.weight.dtype)
        logits: torch.Tensor = self.mask_predictor(self.mask_head(features))
        return logits


def _linear(features_in: int, features_out: int, rank: int) -> nn.Module:
    return LowRank(features_in, features_out, rank) if rank else nn.Linear(features_in, features_out)
