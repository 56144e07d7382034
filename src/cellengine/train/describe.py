"""The spec that follows from a configuration: what training validates with and export completes."""

from __future__ import annotations

from cellengine.geometry import round_up
from cellengine.spec import ModelSpec
from cellengine.train.config import TrainConfig


def describe_model(config: TrainConfig, object_size_px: float) -> ModelSpec:
    """A spec with the exact halo; export measures the smaller one and adds parity."""
    model = config.model
    exact = tuple(round_up(r, d) for r, d in zip(model.receptive_field, model.divisor, strict=True))
    return ModelSpec(
        name=config.name,
        task=config.task,
        axes="YX" if model.dims == 2 else "ZYX",
        channels=config.channels,
        tile=config.data.crop_px if config.task == "classification" else config.tile,
        divisor=model.divisor,
        receptive_field=model.receptive_field,
        halo=exact,
        normalize=config.normalize,
        outputs=model.outputs,
        decoder=config.decoder,
        classes=config.classes,
        voxel_size_um=config.voxel_size_um,
        reduce=config.reduce,
        activation_bytes=model.activation_bytes,
        object_size_px=object_size_px,
        training_data=config.training_data,
        licence=config.licence,
    )
