"""Losses on logits, one per head, summed. Every pixel has a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from cellengine.train.config import LossConfig

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def bce(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, the weighted mean over pixels; targets may lie between 0 and 1."""
    return (functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).sum() / weight.sum()


def dice(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice coefficient per sample (Milletari et al. 2016), smoothed by one so that empty crops count."""
    probability = torch.sigmoid(logits)
    axes = tuple(range(1, logits.ndim))
    overlap = (probability * target * weight).sum(axes)
    total = ((probability + target) * weight).sum(axes)
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def smooth_l1(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Huber loss (beta 0.1) of the activated value."""
    return (
        functional.smooth_l1_loss(torch.sigmoid(logits), target, reduction="none", beta=0.1) * weight
    ).sum() / weight.sum()


def mse(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Squared error of the activated value."""
    return ((torch.sigmoid(logits) - target) ** 2 * weight).sum() / weight.sum()


def bce_dice(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Sum of `bce` and `dice`."""
    return bce(logits, target, weight) + dice(logits, target, weight)


LOSSES: dict[str, Loss] = {"bce": bce, "dice": dice, "bce+dice": bce_dice, "smooth_l1": smooth_l1, "mse": mse}


def head_losses(
    logits: Mapping[str, torch.Tensor], targets: torch.Tensor, config: LossConfig
) -> dict[str, torch.Tensor]:
    """One term a head. `targets` is (N, 3, *spatial): foreground, distance, weight."""
    foreground, distance, weight = (targets[:, i : i + 1] for i in range(3))
    return {
        "foreground": LOSSES[config.foreground](logits["foreground"].float(), foreground, weight),
        "distance": config.distance_weight * LOSSES[config.distance](logits["distance"].float(), distance, weight),
    }
