"""Losses on logits: of maps, where every pixel has a weight, and of classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import functional

from cellengine.train.settings import LossConfig

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def bce(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, the weighted mean over pixels; targets may lie between 0 and 1."""
    plain = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (plain * weight).sum() / _total(weight)


def dice(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice coefficient per sample (Milletari et al. 2016), smoothed by one so that empty crops count."""
    return soft_dice(torch.sigmoid(logits), target, weight)


def soft_dice(probability: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """As `dice`, of probabilities."""
    axes = tuple(range(1, probability.ndim))
    overlap = (probability * target * weight).sum(axes)
    total = ((probability + target) * weight).sum(axes)
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def smooth_l1(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Huber loss (beta 0.1) of the activated value."""
    return (
        functional.smooth_l1_loss(torch.sigmoid(logits), target, reduction="none", beta=0.1) * weight
    ).sum() / _total(weight)


def mse(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Squared error of the activated value."""
    return ((torch.sigmoid(logits) - target) ** 2 * weight).sum() / _total(weight)


def bce_dice(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Sum of `bce` and `dice`."""
    return bce(logits, target, weight) + dice(logits, target, weight)


def binary_focal(gamma: float) -> Loss:
    """Focal loss (Lin et al. 2017): cross-entropy that counts what is already right by (1 - p)^gamma only."""

    def loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        plain = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        wrong = (torch.sigmoid(logits) - target).abs()
        return (wrong**gamma * plain * weight).sum() / _total(weight)

    return loss


def head_losses(
    logits: Mapping[str, torch.Tensor], targets: torch.Tensor, config: LossConfig
) -> dict[str, torch.Tensor]:
    """One term a head. `targets` is (N, T, *spatial): a map per head in the order of `logits`, then the weight."""
    weight = targets[:, -1:]
    binary = {"bce": bce, "dice": dice, "bce+dice": bce_dice, "focal": binary_focal(config.focal_gamma)}
    distance = {"bce": bce, "smooth_l1": smooth_l1, "mse": mse}
    terms = {}
    for i, (name, values) in enumerate(logits.items()):
        value, target = values.float(), targets[:, i : i + 1]
        if name == "classes":
            terms[name] = class_map_loss(value, target[:, 0].long(), weight[:, 0], config)
        elif name == "distance":
            terms[name] = config.distance_weight * distance[config.distance](value, target, weight)
        else:
            terms[name] = binary[config.boundary if name == "boundary" else config.foreground](value, target, weight)
    return terms


def class_map_loss(
    logits: torch.Tensor, classes: torch.Tensor, weight: torch.Tensor, config: LossConfig
) -> torch.Tensor:
    """Loss of a map of classes: logits (N, C, *spatial), class ids (N, *spatial), weight alike, 0 where unknown."""
    of_class = _class_weights(config.class_weights, logits)
    terms = []
    if config.classes in ("cross_entropy", "cross_entropy+dice", "focal"):
        plain = functional.cross_entropy(logits, classes, of_class, reduction="none")
        if config.classes == "focal":
            right = torch.softmax(logits, 1).gather(1, classes[:, None])[:, 0]
            plain = (1 - right) ** config.focal_gamma * plain
        share = weight if of_class is None else weight * of_class[classes]
        terms.append((plain * weight).sum() / _total(share))
    if config.classes in ("dice", "cross_entropy+dice"):
        one_hot = functional.one_hot(classes, logits.shape[1]).movedim(-1, 1).float()
        parts = torch.softmax(logits, 1)
        terms.append(
            torch.stack([soft_dice(parts[:, c], one_hot[:, c], weight) for c in range(logits.shape[1])]).mean()
        )
    return torch.stack(terms).sum()


def crop_loss(logits: torch.Tensor, classes: torch.Tensor, config: LossConfig) -> torch.Tensor:
    """Loss of whole crops: logits (N, C), classes (N,)."""
    of_class = _class_weights(config.class_weights, logits)
    if config.classes == "focal":
        plain = functional.cross_entropy(logits, classes, of_class, reduction="none")
        right = torch.softmax(logits, 1).gather(1, classes[:, None])[:, 0]
        return ((1 - right) ** config.focal_gamma * plain).mean()
    return functional.cross_entropy(logits, classes, of_class, label_smoothing=config.label_smoothing)


def _total(weight: torch.Tensor) -> torch.Tensor:
    """What a mean is divided by; of a batch of unknown pixels alone there is nothing to learn, which is no NaN."""
    return weight.sum().clamp_min(1e-6)


def _class_weights(weights: Sequence[float], like: torch.Tensor) -> torch.Tensor | None:
    return torch.tensor(weights, dtype=like.dtype, device=like.device) if weights else None
