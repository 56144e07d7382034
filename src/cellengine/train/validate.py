"""Validation while training: the production engine on whole pictures. What is validated is what is deployed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from cellengine.engine.infer import infer_array
from cellengine.io.annotated import Picture
from cellengine.metrics import evaluate_instances, mean_over_pictures
from cellengine.models.session import TorchSession
from cellengine.spec import ModelSpec
from cellengine.train.config import TrainConfig

Array = np.ndarray[Any, Any]

PANELS = 4


@dataclass(frozen=True, slots=True)
class Validation:
    """Scores of one validation, and a few pictures to look at."""

    score: float
    """what decides which weights are the best: the mean AP over IoU 0.5 ... 0.95"""
    scores: dict[str, float]
    panels: list[tuple[str, Array, Array, Array]]
    """name, image, truth, prediction of the same few pictures every time"""


def validate(model: nn.Module, spec: ModelSpec, pictures: Sequence[Picture], config: TrainConfig) -> Validation:
    """Label every picture with the production tiling and decoder and score it against the truth."""
    with TorchSession(model, spec, config.precision) as session:
        found = [infer_array(p.image, session).labels for p in pictures]
    each = [evaluate_instances(p.labels, labels) for p, labels in zip(pictures, found, strict=True)]
    mean = mean_over_pictures(each)
    scores = {"mean_ap": mean["mean_ap"], "ap50": mean["ap0.5"]}
    kinds = [p.item.kind for p in pictures]
    for kind in dict.fromkeys(k for k in kinds if k):
        part = mean_over_pictures([s for s, k in zip(each, kinds, strict=True) if k == kind])
        scores[f"ap50_{kind}"] = part["ap0.5"]
    picked = range(0, len(pictures), max(1, len(pictures) // PANELS))
    panels = [(pictures[i].item.image.name, pictures[i].image, pictures[i].labels, found[i]) for i in picked[:PANELS]]
    return Validation(mean["mean_ap"], scores, panels)
