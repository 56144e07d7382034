"""The spec that follows from a configuration: what training validates with and export completes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import ndimage

from cellengine.geometry import round_up
from cellengine.spec import ModelSpec, Output
from cellengine.train.config import TrainConfig

Array = np.ndarray[Any, Any]


def object_size_px(labels: Iterable[Array]) -> float:
    """The longest side of an object's bounding box that only one object in a thousand exceeds."""
    sides = [max(s.stop - s.start for s in box) for image in labels for box in ndimage.find_objects(image) if box]
    return float(np.ceil(np.percentile(sides, 99.9))) if sides else 64.0


def describe_model(config: TrainConfig, labels: Iterable[Array]) -> ModelSpec:
    """A spec with the exact halo; export measures the smaller one and adds parity. `labels` are the training set's."""
    model = config.model
    exact = tuple(round_up(r, d) for r, d in zip(model.receptive_field, model.divisor, strict=True))
    return ModelSpec(
        name=config.name,
        task=config.task,
        axes="YX" if model.dims == 2 else "ZYX",
        channels=config.channels,
        tile=config.tile,
        divisor=model.divisor,
        receptive_field=model.receptive_field,
        halo=exact,
        normalize=config.normalize,
        outputs=tuple(Output(name) for name in model.heads),
        decoder=config.decoder,
        classes=config.classes,
        activation_bytes=model.activation_bytes,
        object_size_px=object_size_px(labels),
        training_data=config.training_data,
        licence=config.licence,
    )
