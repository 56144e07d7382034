"""What the one training loop asks of a task: samples, losses of a batch, validation, and the spec of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset, default_collate

from cellengine.spec import ModelSpec

Batch = tuple[torch.Tensor, ...]
"""a sample, or many stacked along a new first axis: the image (C, *crop) float32 first, then whatever the losses read.
All samples of a run have the same shapes, so what varies in number is padded."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Scores of one validation, and a few pictures to look at."""

    score: float
    """what decides which weights are the best; higher is better"""
    scores: dict[str, float]
    """by name, for metrics.csv and the model's card"""
    draw: Callable[[], Any]
    """draws the preview, a matplotlib figure: the same few pictures every time"""


class Samples(Dataset[Batch]):
    """Sample `i` of epoch `e` is item `e * samples_per_epoch + i`; it depends on its number and the seed alone."""

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Several samples, stacked along a new first axis."""
        return tuple(default_collate([self[number] for number in numbers]))


class Recipe(Protocol):
    """How a task is trained. Made once a run from its configuration; reads all it needs to know of the data then."""

    spec: ModelSpec
    """the model that comes of it, with the exact halo; export measures the smaller one and adds parity"""
    samples: Samples
    checks: Samples
    """crops of the validation pictures as they are: what the validation losses are measured on"""

    def summary(self) -> str:
        """One line on what there is to learn from and to validate on."""
        ...

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Every term of the loss by name; the loop minimises their sum.

        Called with autocast as the configuration says: compute losses themselves in float32. Random choices come from
        torch's own generator, which the loop seeds for every step.
        """
        ...

    def validate(self, model: nn.Module) -> Validation:
        """Answer the validation pictures with the production tiling and decoder, and score the answers."""
        ...
