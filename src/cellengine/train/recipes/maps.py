"""What instances, boundaries and classes of pixels have in common: pictures, crops of them, a loss per head."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from cellengine.models.session import TorchSession
from cellengine.train.config import TrainConfig
from cellengine.train.data import Pictures, PictureSamples, as_they_are, read_pictures
from cellengine.train.describe import describe_model
from cellengine.train.losses import head_losses
from cellengine.train.prepared import object_size_px
from cellengine.train.recipe import Batch, Samples, Validation


class MapRecipe(ABC):
    """See `Recipe`; what is left open is how answers are scored."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        pictures: Pictures = read_pictures(config)
        self.counts = len(pictures.train), len(pictures.val)
        self.truth = pictures.truth(config)
        self.spec = describe_model(config, object_size_px([p.sides for p in pictures.train]))
        self.samples: Samples = PictureSamples(pictures.train, config)
        self.checks: Samples = PictureSamples(pictures.checked, as_they_are(config))

    def summary(self) -> str:
        """See `Recipe.summary`."""
        return f"{self.counts[0]} pictures to train on, {self.counts[1]} to validate on"

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """See `Recipe.losses`: one term a head."""
        image, targets = batch
        return head_losses(model.logits(image), targets, self.config.loss)  # type: ignore[operator]

    def validate(self, model: nn.Module) -> Validation:
        """See `Recipe.validate`."""
        with TorchSession(model, self.spec, self.config.arithmetic) as session:
            return self.score(session)

    @abstractmethod
    def score(self, session: TorchSession) -> Validation:
        """Answer the validation pictures and score the answers."""
