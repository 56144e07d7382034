"""Instances: foreground and normalised distance on whole pictures; labels by the production decoder."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.data import Dataset

from cellengine.engine.infer import infer_array
from cellengine.metrics import evaluate_instances, mean_over_pictures
from cellengine.models.session import TorchSession
from cellengine.train.config import TrainConfig
from cellengine.train.data import Samples, read_pictures
from cellengine.train.describe import describe_model
from cellengine.train.losses import head_losses
from cellengine.train.recipe import Batch, Validation
from cellengine.train.report import draw_labels, few


class Instances:
    """See `Recipe`."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        pictures = read_pictures(config)
        self.truth = pictures["val"]
        self.spec = describe_model(config, [p.labels for p in pictures["train"]])
        self.samples: Dataset[Batch] = Samples(pictures["train"], config)
        self.counts = {split: len(found) for split, found in pictures.items()}

    def summary(self) -> str:
        """See `Recipe.summary`."""
        return f"{self.counts['train']} pictures to train on, {self.counts['val']} to validate on"

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """See `Recipe.losses`: one term a head."""
        image, targets = batch
        return head_losses(model.logits(image), targets, self.config.loss)  # type: ignore[operator]

    def validate(self, model: nn.Module) -> Validation:
        """See `Recipe.validate`: the score is the mean AP over IoU 0.5 ... 0.95."""
        with TorchSession(model, self.spec, self.config.precision) as session:
            found = [infer_array(p.image, session).labels for p in self.truth]
        each = [evaluate_instances(p.labels, labels) for p, labels in zip(self.truth, found, strict=True)]
        mean = mean_over_pictures(each)
        scores = {"mean_ap": mean["mean_ap"], "ap50": mean["ap0.5"]}
        kinds = [p.item.kind for p in self.truth]
        for kind in dict.fromkeys(k for k in kinds if k):
            part = mean_over_pictures([s for s, k in zip(each, kinds, strict=True) if k == kind])
            scores[f"ap50_{kind}"] = part["ap0.5"]
        panels = [(p.item.image.name, p.image, p.labels, labels) for p, labels in few(self.truth, found)]
        return Validation(mean["mean_ap"], scores, partial(draw_labels, panels))
