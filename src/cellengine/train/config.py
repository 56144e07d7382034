"""What a training run is told: frozen settings from a TOML file or a preset, with every typo an error."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from cellengine.errors import InputError, UsageError
from cellengine.models import ModelConfig
from cellengine.models.unet import UNetConfig
from cellengine.records import RecordError, from_plain, to_plain
from cellengine.spec import Decoder, DistanceWatershed, Normalize, Task, needed_outputs
from cellengine.train.augmentations import AUGMENTATIONS
from cellengine.train.detection.settings import DetectionConfig
from cellengine.train.settings import AugmentConfig, DataConfig, LossConfig, OptimizerConfig, TargetConfig

SWEEP = "sweep"
"""table of a TOML file with lists of settings to try, by `section.key`"""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that decides a run. Two runs of one config on one CPU give the same weights."""

    name: str
    task: Task = "instances"
    seed: int = 1
    epochs: int = 40
    batch: int = 8
    """samples a step of the weights, over all devices"""
    accumulate: int = 1
    """parts of a batch that are computed one after the other and add their gradients: less memory"""
    checkpointing: bool = False
    """compute activations again in the backward pass where the network can: much less memory, a third more time"""
    heads_only_epochs: int = 0
    """epochs at the start in which only the head's weights move, the rest is frozen with its BatchNorm"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """arithmetic of the forward and backward pass (autocast); weights stay float32. fp16 scales the loss, on CUDA.
    auto: what is fastest on the device, see `Place.best_precision`; checkpoints say which"""
    validate_every: int = 4
    """epochs between validations"""
    preview_every: int = 4
    """epochs between preview pictures; a multiple of validate_every"""
    early_stop: int = 0
    """validations without a better score after which training ends; 0 for never"""
    min_delta: float = 0.0
    """by how much a score must be better to count as such for `early_stop` and the plateau schedule"""
    channels: tuple[str, ...] = ("red", "green", "blue")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=UNetConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    """of detectors, in place of targets and loss"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    normalize: Normalize = field(default_factory=lambda: Normalize("percentile", 1.0, 99.8, clip=(-0.5, 2.0)))
    decoder: Decoder = field(default_factory=DistanceWatershed)
    tile: tuple[int, ...] = (512, 512)
    """tile shape the exported model starts from; a classifier's is `data.crop_px`"""
    classes: tuple[str, ...] = ()
    """names of the classes; one name for a model of one kind of object"""
    voxel_size_um: tuple[float, ...] | None = None
    """of the training pictures, per axis; None when the model takes pixels as they come"""
    reduce: tuple[float, ...] | None = None
    """by how much the training pictures of unknown voxel size had been made smaller, per axis"""
    licence: str = ""
    training_data: str = ""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "validate_every", "preview_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1.")
        if self.data.samples_per_epoch < self.batch:
            raise ValueError(
                f"data.samples_per_epoch is {self.data.samples_per_epoch}, less than a batch: {self.batch}."
            )
        missing = sorted(set(needed_outputs(self.decoder)) - {output.name for output in self.model.outputs})
        if missing:
            raise ValueError(f"the decoder {self.decoder.kind} needs the head {missing[0]}, which the model has not.")
        if len(self.channels) != self.model.channels_in:
            raise ValueError(f"{len(self.channels)} channel names for a model of {self.model.channels_in} channels.")
        if any(c % d for c, d in zip(self.data.crop_px, self.model.divisor, strict=True)):
            raise ValueError(f"data.crop_px {self.data.crop_px} is not a multiple of {self.model.divisor}.")
        if self.preview_every % self.validate_every:
            raise ValueError("preview_every is not a multiple of validate_every.")
        if self.batch % self.accumulate:
            raise ValueError(f"a batch of {self.batch} cannot be accumulated in {self.accumulate} equal parts.")
        named = {output.name: output.channels for output in self.model.outputs}
        if "classes" in named and self.task in ("semantic", "classification") and named["classes"] != len(self.classes):
            raise ValueError(f"{len(self.classes)} names of classes for a model of {named['classes']}.")

    @property
    def steps_per_epoch(self) -> int:
        """Moves of the weights; samples beyond the last whole batch are left out."""
        return self.data.samples_per_epoch // self.batch

    @property
    def arithmetic(self) -> Literal["fp32", "bf16", "fp16"]:
        """The precision; fp32 where it is left to a device and none is chosen yet."""
        return "fp32" if self.precision == "auto" else self.precision

    @property
    def norm_rests(self) -> bool:
        """Whether BatchNorm keeps what the weights that training starts from have learnt."""
        return self.task == "detection" and self.detection.freeze_norm

    def to_json(self) -> str:
        """One line that goes into checkpoints."""
        return json.dumps(to_plain(self))

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """The inverse of `to_json`."""
        return from_plain(cls, json.loads(text))


def presets() -> dict[str, Path]:
    """Name and file of every preset that comes with cellengine."""
    folder = Path(str(resources.files("cellengine.train") / "presets"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a preset or a TOML file, with `section.key=value` settings on top.

    Raises UsageError for an unknown name and InputError for a setting that does not fit.
    """
    name, data = read_settings(name_or_path)
    if SWEEP in data:
        raise UsageError(f"{name} has a table [{SWEEP}] of settings to try: add --sweep.")
    for override in overrides:
        key, value = split_override(override)
        set_value(data, key, value)
    return build_config(name, data)


def read_settings(name_or_path: str) -> tuple[str, dict[str, Any]]:
    """File name and plain settings of a preset or a TOML file. Raises UsageError or InputError."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        known = presets()
        if name_or_path not in known:
            raise UsageError(f"No preset {name_or_path!r}; known: {', '.join(known)}; or give a .toml file.")
        path = known[name_or_path]
    if not path.is_file():
        raise UsageError(f"The configuration {path} does not exist.")
    try:
        return path.name, tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}.") from error


def build_config(name: str, data: Mapping[str, Any]) -> TrainConfig:
    """The configuration of plain settings, which are left as they are; `name` is the file in errors (InputError)."""
    settings = copy.deepcopy(dict(data))
    _expand_augmentation(settings)
    try:
        return from_plain(TrainConfig, settings)
    except RecordError as error:
        raise InputError(f"{name}: {error}") from error


def split_override(override: str) -> tuple[str, Any]:
    """Key and value of `section.key=value`; the value is TOML, or else a text."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UsageError(f"--set {override!r}: expected section.key=value.")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text


def set_value(data: dict[str, Any], key: str, value: Any) -> None:
    """Set `section.key` in plain settings; raises UsageError where a section is none."""
    *sections, name = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise UsageError(f"--set {key}: {section} is not a section.")
    data[name] = value


def _expand_augmentation(data: dict[str, Any]) -> None:
    """`augment.set = NAME` stands for all settings of that set; those beside it are on top."""
    given = data.get("augment")
    if isinstance(given, dict) and "set" in given:
        name = given.pop("set")
        if name not in AUGMENTATIONS:
            raise InputError(f"augment.set: found {name!r}, expected one of {', '.join(AUGMENTATIONS)}.")
        data["augment"] = {**to_plain(AUGMENTATIONS[name]), **given}
