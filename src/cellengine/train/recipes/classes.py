"""Classes of whole crops: live or dead, one answer a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cellengine.engine.classify import classify, cut_crop
from cellengine.engine.flow import Stop
from cellengine.engine.options import InferOptions
from cellengine.engine.scene import scenes
from cellengine.errors import InputError, UsageError
from cellengine.io import MemorySource
from cellengine.io.crops import SPLITS, Crop, read_crops, window
from cellengine.io.splits import draw_split
from cellengine.metrics import evaluate_classes
from cellengine.models.session import TorchSession
from cellengine.train.augment import Augmentation
from cellengine.train.chance import Chance
from cellengine.train.config import TrainConfig
from cellengine.train.data import as_they_are, draw, even_shares
from cellengine.train.describe import describe_model
from cellengine.train.losses import crop_loss
from cellengine.train.moves import margin_px
from cellengine.train.prepared import scale_picture
from cellengine.train.recipe import Batch, Samples, Validation
from cellengine.train.report import draw_crops, few

Array = np.ndarray[Any, Any]


class Classes:
    """See `Recipe`."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        crops = list_crops(config)
        self.train = [crop for crop in crops if crop.split == "train"]
        self.truth = [crop for crop in crops if crop.split == "val"]
        self.spec = describe_model(config, float(max(config.data.crop_px)))
        self.samples: Samples = CropSamples(self.train, config)
        self.checks: Samples = CropSamples(self.truth, as_they_are(config))

    def summary(self) -> str:
        """See `Recipe.summary`."""
        counts = [
            f"{sum(c.label == i for c in self.train)} + {sum(c.label == i for c in self.truth)} {name}"
            for i, name in enumerate(self.config.classes)
        ]
        return f"{len(self.train)} crops to train on, {len(self.truth)} to validate on: {', '.join(counts)}"

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """See `Recipe.losses`."""
        image, classes = batch
        logits = model.logits(image)["classes"].float()  # type: ignore[operator]
        return {"classes": crop_loss(logits, classes, self.config.loss)}

    def validate(self, model: nn.Module) -> Validation:
        """See `Recipe.validate`: the score is the balanced accuracy."""
        with TorchSession(model, self.spec, self.config.arithmetic) as session:
            found = _answers(session, self.truth)
        truth = np.array([crop.label for crop in self.truth])
        scores = evaluate_classes(truth, found.argmax(1), len(self.config.classes), found)
        row = {name: value for name, value in scores.row().items() if not name[-1].isdigit() and name != "items"}
        row |= {f"recall_{name}": float(r) for name, r in zip(self.config.classes, scores.recall, strict=True)}
        shown = sorted(few(len(self.truth), 24))
        panels = [(self.truth[i].image, self.truth[i].label, found[i]) for i in shown]
        return Validation(scores.balanced_accuracy, row, partial(draw_crops, panels, self.config.classes))


class CropSamples(Samples):
    """Augmented crops, classes drawn as `balance_power` says. Sample `i` of epoch `e` depends on its number alone."""

    def __init__(self, crops: Sequence[Crop], config: TrainConfig) -> None:
        self.config, self.crops = config, crops
        self.augmentation = Augmentation(config.augment, config.data.crop_px)
        self.read_px = read_size(config)
        self.cumulative = even_shares([str(crop.label) for crop in crops], config.data)
        self.scaled = np.stack([scale_crop(crop.image, config, self.read_px) for crop in crops])
        self.labels = torch.tensor([crop.label for crop in crops])
        self.middle = np.array([n // 2 for n in self.read_px])

    def __len__(self) -> int:
        return self.config.epochs * self.config.data.samples_per_epoch

    def __getitem__(self, index: int) -> Batch:
        """Image (C, *crop) float32, and its class."""
        images, labels = self.batch([index])
        return images[0], labels[0]

    def batch(self, numbers: Sequence[int]) -> Batch:
        """See `Samples.batch`: images (n, C, *crop) and classes (n,)."""
        chances = [Chance(self.config.seed, number) for number in numbers]
        chosen = np.array([draw(self.cumulative, chance) for chance in chances])
        return self.augmentation.of_crops(self.scaled, chosen, self.middle, chances), self.labels[chosen]


def list_crops(config: TrainConfig) -> list[Crop]:
    """Every crop that the configuration names, with the channels that the model takes."""
    data = config.data
    if not data.path:
        raise UsageError("The configuration names no data: add --set data.path=CROPS.npz (or a CSV, or a folder).")
    size = read_size(config)
    crops = read_crops(
        Path(data.path),
        config.classes,
        (size[0], size[1]),
        label=data.label,
        where=data.where,
        validation_share=data.validation_share,
        seed=config.seed,
    )
    channels = config.model.channels_in
    wrong = next((c for c in crops if c.image.shape[0] not in (1, channels)), None)
    if wrong is not None:
        raise InputError(f"{wrong.name}: found {wrong.image.shape[0]} channels, the model takes {channels}.")
    if not data.folds:
        return crops
    crops = [crop for crop in crops if crop.split in SPLITS]
    parts = draw_split(
        [crop.group for crop in crops],
        {str(k): 1 / data.folds for k in range(data.folds)},
        config.seed,
        [str(crop.label) for crop in crops],
    )
    return [
        replace(crop, split="val" if part == str(data.fold) else "train")
        for crop, part in zip(crops, parts, strict=True)
    ]


def read_size(config: TrainConfig) -> tuple[int, ...]:
    """px that a sample is cut from: the crop, and what turning and zooming out need around it."""
    crop = config.data.crop_px
    margin = margin_px(config.augment, crop)
    return tuple(c + 2 * m for c, m in zip(crop, margin, strict=True))


def scale_crop(image: Array, config: TrainConfig, size_px: Sequence[int]) -> Array:
    """`size_px` around the middle of a crop, float16, scaled by the part that the network will see, as `infer` does."""
    centre = [n // 2 for n in image.shape[1:]]
    several = np.broadcast_to(image, (config.model.channels_in, *image.shape[1:]))
    seen = window(several, centre, config.data.crop_px)
    return scale_picture(window(several, centre, size_px), config.normalize, measured_on=seen)


def _answers(session: TorchSession, crops: Sequence[Crop]) -> Array:
    """Probabilities of the crops, (n, classes), cut around their middle and scaled as `infer` does."""

    def read(crop: Crop) -> Array:
        channels = tuple(str(c) for c in range(len(crop.image))) if len(crop.image) > 1 else ()
        source = MemorySource(crop.image, "CYX", voxel_size_um=session.spec.voxel_size_um)
        scene = scenes(source, session.spec, InferOptions(channel=channels))[0].seen
        return cut_crop(scene, [n // 2 for n in scene.shape], session.spec, InferOptions())

    return classify(crops, read, session, InferOptions(), Stop())
