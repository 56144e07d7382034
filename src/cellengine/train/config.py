"""What a training run is told: frozen settings from a TOML file or a preset, with every typo an error."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from cellengine.errors import InputError, UsageError
from cellengine.models import ModelConfig
from cellengine.models.unet import UNetConfig
from cellengine.records import RecordError, from_plain, to_plain
from cellengine.spec import Decoder, DistanceWatershed, Normalize, Task


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where the pictures are and how they are drawn."""

    path: str = ""
    """a CSV with the columns image and label (paths relative to it), optionally split, group and kind; or a folder
    with the subfolders images and labels, matched by stem"""
    validation_share: float = 0.15
    """share of groups drawn for validation (seeded) when the CSV has no column split"""
    crop_px: tuple[int, ...] = (256, 256)
    samples_per_epoch: int = 1024
    balance_by: str | None = None
    """draw the values of this CSV column (say kind) more evenly than they occur"""
    balance_power: float = 0.5
    """a value that occurs n times is drawn in proportion to n ** balance_power: 1 as it comes, 0 all alike"""
    cell_share: float = 0.75
    """share of crops that are centred on a cell"""
    workers: int = 1
    """processes that prepare samples beside the training step; the samples do not depend on it"""

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share}, expected a number between 0 and 1.")


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Random changes of image and targets together. Probabilities are per sample, ranges are uniform."""

    flips: bool = True
    rotate_deg: float = 180.0
    zoom: tuple[float, float] = (0.7, 1.5)
    """how much larger (> 1) or smaller objects get"""
    affine_probability: float = 0.8
    blur_sigma_px: tuple[float, float] = (0.3, 1.5)
    blur_probability: float = 0.15
    noise_std: float = 0.05
    noise_probability: float = 0.2
    gamma: tuple[float, float] = (0.6, 1.6)
    gamma_probability: float = 0.3
    brightness: float = 0.1
    contrast: float = 0.25
    intensity_probability: float = 0.5
    stain_probability: float = 0.0
    """lay patches of brown immunostain over bright colour pictures"""
    glare_probability: float = 0.0
    """lay a broad glow over dark pictures, in which nuclei keep a fraction of their contrast"""
    grey_probability: float = 0.1
    """replace a colour picture by its mean over the channels"""
    shuffle_channels_probability: float = 0.0


@dataclass(frozen=True, slots=True)
class LossConfig:
    """One loss per head, and how their pixels are weighted."""

    foreground: Literal["bce", "dice", "bce+dice"] = "bce+dice"
    distance: Literal["bce", "smooth_l1", "mse"] = "bce"
    distance_weight: float = 1.0
    separation_weight: float = 3.0
    """extra weight of pixels between cells that touch or nearly touch"""
    small_object_weight: float = 2.0
    """the pixels of a small cell weigh up to this much more, so that it counts like a large one"""


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """How weights move."""

    method: Literal["adamw", "sgd"] = "adamw"
    rate: float = 2e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    """of sgd"""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup_steps: int = 100
    plateau_patience: int = 4
    """validations without a better score after which the rate halves"""
    gradient_clip: float = 1.0
    """largest norm of the gradient; 0 for none"""
    ema_decay: float = 0.998
    """moving average of the weights, used for validation and export; 0 for none"""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that decides a run. Two runs of one config on one CPU give the same weights."""

    name: str
    task: Task = "instances"
    seed: int = 1
    epochs: int = 40
    batch: int = 8
    precision: Literal["fp32", "bf16"] = "bf16"
    """arithmetic of the forward and backward pass (autocast); weights stay float32"""
    validate_every: int = 4
    """epochs between validations"""
    preview_every: int = 4
    """epochs between preview pictures; a multiple of validate_every"""
    early_stop: int = 0
    """validations without a better score after which training ends; 0 for never"""
    channels: tuple[str, ...] = ("red", "green", "blue")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=UNetConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    normalize: Normalize = field(default_factory=lambda: Normalize("percentile", 1.0, 99.8, clip=(-0.5, 2.0)))
    decoder: Decoder = field(default_factory=DistanceWatershed)
    tile: tuple[int, ...] = (512, 512)
    """tile shape the exported model starts from"""
    classes: tuple[str, ...] = ()
    """names of the classes; one name for a model of one kind of object"""
    licence: str = ""
    training_data: str = ""

    def __post_init__(self) -> None:
        if len(self.channels) != self.model.channels_in:
            raise ValueError(f"{len(self.channels)} channel names for a model of {self.model.channels_in} channels.")
        if any(c % d for c, d in zip(self.data.crop_px, self.model.divisor, strict=True)):
            raise ValueError(f"data.crop_px {self.data.crop_px} is not a multiple of {self.model.divisor}.")
        if self.preview_every % self.validate_every:
            raise ValueError("preview_every is not a multiple of validate_every.")

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
    path = Path(name_or_path)
    if path.suffix != ".toml":
        known = presets()
        if name_or_path not in known:
            raise UsageError(f"No preset {name_or_path!r}; known: {', '.join(known)}; or give a .toml file.")
        path = known[name_or_path]
    if not path.is_file():
        raise UsageError(f"The configuration {path} does not exist.")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}.") from error
    for override in overrides:
        _set(data, override)
    try:
        return from_plain(TrainConfig, data)
    except RecordError as error:
        raise InputError(f"{path.name}: {error}") from error


def _set(data: dict[str, Any], override: str) -> None:
    """Apply one `section.key=value`; the value is TOML, or else a text."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UsageError(f"--set {override!r}: expected section.key=value.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, name = key.strip().split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise UsageError(f"--set {override!r}: {section} is not a section.")
    data[name] = value
