"""Objects one by one, with boxes, scores and masks: a detector, scored by the labels of the production decoder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from cellengine.engine.infer import infer_array
from cellengine.errors import InputError
from cellengine.geometry import round_up
from cellengine.metrics import evaluate_instances, mean_over_pictures
from cellengine.models.detection import MaskRCNN, MaskRCNNConfig
from cellengine.models.session import TorchSession
from cellengine.train.config import TrainConfig
from cellengine.train.data import as_they_are, read_pictures
from cellengine.train.describe import describe_model
from cellengine.train.detection.losses import detection_losses
from cellengine.train.detection.samples import ObjectSamples
from cellengine.train.prepared import Prepared, object_size_px
from cellengine.train.recipe import Batch, Samples, Validation
from cellengine.train.report import Panel, draw_labels, few

CONTEXT_PX = 16
"""what a detector should see around an object to tell where it ends"""


class Detections:
    """See `Recipe`."""

    def __init__(self, config: TrainConfig) -> None:
        model = config.model
        if not isinstance(model, MaskRCNNConfig) or model.classes != 1:
            raise InputError("The task detection trains a model of kind 'mask_rcnn' with one class of objects.")
        self.config = config
        pictures = read_pictures(config)
        self.counts = len(pictures.train), len(pictures.val)
        self.truth = pictures.truth(config)
        largest = object_size_px([p.sides for p in pictures.train])
        # an object whose centre lies a quarter of its size beyond the core still belongs to the tile, whole
        halo = tuple(round_up(int(0.75 * largest) + CONTEXT_PX, d) for d in model.divisor)
        self.spec = replace(describe_model(config, largest), halo=halo)
        self.samples: Samples = ObjectSamples(pictures.train, config, model)
        self.checks: Samples = ObjectSamples(pictures.checked, as_they_are(config), model)
        self.mean, self.std = measure_pixels(pictures.train)

    def summary(self) -> str:
        """See `Recipe.summary`."""
        mean = ", ".join(f"{v:.3f}" for v in self.mean.tolist())
        return f"{self.counts[0]} pictures to train on, {self.counts[1]} to validate on; mean pixel {mean}"

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """See `Recipe.losses`: objectness and box of anchors; class, box and mask of proposals."""
        return detection_losses(self._acquaint(model), batch, self.config.detection)

    def validate(self, model: nn.Module) -> Validation:
        """See `Recipe.validate`: the score is the mean AP over IoU 0.5 ... 0.95."""
        self._acquaint(model)
        shown = few(len(self.truth))
        each, kinds, panels = [], [], []
        with TorchSession(model, self.spec, self.config.arithmetic) as session:
            for i, picture in enumerate(self.truth):
                result = infer_array(picture.image, session)
                each.append(evaluate_instances(picture.labels, result.labels))
                kinds.append(picture.item.kind)
                if i in shown:
                    shown_scores = result.objects["score"]
                    panels.append(
                        Panel(picture.item.image.name, picture.image, picture.labels, result.labels, shown_scores)
                    )
        mean = mean_over_pictures(each)
        scores = {"mean_ap": mean["mean_ap"], "ap50": mean["ap0.5"]}
        for kind in dict.fromkeys(k for k in kinds if k):
            part = mean_over_pictures([s for s, k in zip(each, kinds, strict=True) if k == kind])
            scores[f"ap50_{kind}"] = part["ap0.5"]
        return Validation(mean["mean_ap"], scores, partial(draw_labels, panels))

    def _acquaint(self, model: nn.Module) -> MaskRCNN:
        """Tell the network the mean pixel of these pictures, whatever weights it started from."""
        if not isinstance(model, MaskRCNN):
            raise TypeError(f"found a {type(model).__name__}, expected a MaskRCNN")
        with torch.no_grad():
            model.pixel_mean.copy_(self.mean)
            model.pixel_std.copy_(self.std)
        return model


def measure_pixels(pictures: list[Prepared]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel over all pictures as the network sees them, pictures alike."""
    means = np.array([p.image.mean((1, 2), dtype=np.float64) for p in pictures])
    squares = np.array([(p.image.astype(np.float32) ** 2).mean((1, 2), dtype=np.float64) for p in pictures])
    mean = means.mean(0)
    std = np.sqrt(np.maximum(squares.mean(0) - mean**2, 1e-4))
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
