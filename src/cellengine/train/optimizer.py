"""How weights move: the optimizer, the rate of each step, which weights rest, and their moving average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cellengine.errors import UsageError
from cellengine.train.config import TrainConfig
from cellengine.train.settings import OptimizerConfig

AVERAGE_EVERY = 4
"""steps between two moves of the average: in small networks a move takes as long as a layer"""


def build_optimizer(model: nn.Module, settings: OptimizerConfig) -> torch.optim.Optimizer:
    """An optimizer with a group per factor of the rate, weights with weight decay and the others without.

    Raises UsageError for a beginning in `settings.rates` that no parameter has.
    """
    unused = [start for start in settings.rates if not any(n.startswith(start) for n, _ in model.named_parameters())]
    if unused:
        stages = dict.fromkeys(name.split(".")[0] + "." for name, _ in model.named_parameters())
        raise UsageError(
            f"optimizer.rates: no parameter begins with {unused[0]!r}; they begin with {', '.join(stages)}"
        )
    named = [(rate_factor(name, settings.rates), p) for name, p in model.named_parameters()]
    groups: list[dict[str, Any]] = [
        {
            "params": [p for own, p in named if own == factor and (p.ndim > 1) == decays],
            "weight_decay": settings.weight_decay if decays else 0.0,
            "factor": factor,
        }
        for factor in dict.fromkeys(factor for factor, _ in named)
        for decays in (True, False)
    ]
    if settings.method == "sgd":
        return torch.optim.SGD(groups, settings.rate, momentum=settings.momentum, nesterov=True)
    method = torch.optim.Adam if settings.method == "adam" else torch.optim.AdamW
    return method(groups, settings.rate, fused=True)


def rate_factor(name: str, rates: dict[str, float]) -> float:
    """The factor of the longest beginning of `name`; 1 without any."""
    matching = [start for start in rates if name.startswith(start)]
    return rates[max(matching, key=len)] if matching else 1.0


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)


def rate_of_step(step: int, rate_factor: float, config: TrainConfig) -> float:
    """Learning rate of a step: warm-up, then what the schedule says. `rate_factor` is the plateau's."""
    settings = config.optimizer
    total = config.epochs * (config.data.samples_per_epoch // config.batch)
    if step < settings.warmup_steps:
        return settings.rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "cosine":
        done = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
        return settings.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))
    return settings.rate * rate_factor


def begin_phase(model: nn.Module, *, heads_only: bool = False, norm_rests: bool = False) -> None:
    """Put `model` in training mode; with `heads_only` everything but its heads rests, BatchNorm's statistics too.

    With `norm_rests` every BatchNorm uses what it has learnt and learns no more.
    """
    model.train()
    heads: tuple[str, ...] = model.HEADS if heads_only else ("",)  # type: ignore[assignment]
    for name, weights in model.named_parameters():
        weights.requires_grad_(name.startswith(heads))
    for name, part in model.named_modules():
        if name and not f"{name}.".startswith(heads) and not any(h.startswith(f"{name}.") for h in heads):
            part.eval()
        if norm_rests and isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
            for weights in part.parameters():
                weights.requires_grad_(False)


def clip_gradient(weights: Sequence[torch.Tensor], largest: float) -> None:
    """Shorten the gradient of all `weights` together to a norm of at most `largest`."""
    gradients = [w.grad for w in weights if w.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if norm > largest:
        torch._foreach_mul_(gradients, largest / float(norm))


@dataclass(frozen=True, slots=True)
class Followed:
    """Tensors of a network, and those of its moving average in the same order; listed once, not at every step."""

    weights: list[torch.Tensor]
    """what the optimizer moves"""
    floats: tuple[list[torch.Tensor], list[torch.Tensor]]
    """weights and statistics: those of the network, and their means"""
    counts: tuple[list[torch.Tensor], list[torch.Tensor]]
    """whole numbers, which are copied"""

    @classmethod
    def of(cls, model: nn.Module, average: nn.Module) -> Followed:
        """List them."""
        values, means = ([*part.parameters(), *part.buffers()] for part in (model, average))
        pairs = list(zip(values, means, strict=True))
        floats, counts = ([p for p in pairs if p[0].is_floating_point() == kind] for kind in (True, False))
        return cls(
            list(model.parameters()),
            ([value for value, _ in floats], [mean for _, mean in floats]),
            ([value for value, _ in counts], [mean for _, mean in counts]),
        )

    @torch.no_grad()
    def move_average(self, step: int, decay: float) -> None:
        """Move the average towards the weights after every AVERAGE_EVERY steps, by as much as so many moves would.

        Early on it moves faster, so that the start is forgotten. Without `decay` the average is a copy of the weights.
        """
        share = 1 - min(decay, (1 + step) / (10 + step)) ** AVERAGE_EVERY if decay else 1.0
        values, means = self.floats
        torch._foreach_lerp_(means, values, share)
        values, means = self.counts
        if means:
            torch._foreach_copy_(means, values)
