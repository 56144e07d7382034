"""The sections of a training configuration: data, augmentation, targets, losses, optimizer. All frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where the pictures are and how they are drawn."""

    path: str = ""
    """a CSV with the columns image and label or mask (paths relative to it, `file.h5:/name` for one image of several),
    optionally split, group, axes and kind; a CSV of boxes; or a folder with the subfolders images and labels, matched
    by stem. For classifiers: an .npz of crops, a CSV of crops or boxes with a class, or a folder per class"""
    where: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    """rows of the CSV that are used: by column the value, or a list of values"""
    any_voxel_size: bool = False
    """take pictures whose voxels are not of `voxel_size_um` as they are, as `infer --no-resample` does"""
    axes: str = ""
    """axes of the pictures where neither file nor list says, e.g. "ZYX" """
    label: str = "label"
    """column of a CSV, or array of an .npz, that holds the class of each crop"""
    mask_values: tuple[int, ...] = ()
    """for classes of pixels: the value in the mask of each class, in the order of `classes`; empty when they are
    0, 1, 2 ..."""
    ignore_value: int | None = None
    """annotation of pixels that nobody knows: they enter neither losses nor scores"""
    cache: str = ""
    """a folder for pictures as training reads them, so that a set larger than memory works; empty: in memory"""
    folds: int = 0
    """share out what trains and validates in so many parts, whole groups at a time, and validate on part `fold`; other
    splits, such as test, stay out; 0 uses the split of the list"""
    fold: int = 0
    validation_share: float = 0.15
    """share of groups drawn for validation (seeded) when the CSV has no column split"""
    crop_px: tuple[int, ...] = (256, 256)
    samples_per_epoch: int = 1024
    balance_by: str | None = None
    """draw the values of this CSV column (say kind) more evenly than they occur"""
    balance_power: float = 0.5
    """a value that occurs n times is drawn in proportion to n ** balance_power: 1 as it comes, 0 all alike"""
    balance_weights: dict[str, float] = field(default_factory=dict)
    """how many times more often a value is drawn, e.g. { histology_purple = 2.5 }; for what is hard to learn"""
    cell_share: float = 0.75
    """share of crops that are centred on a cell"""
    workers: int | None = None
    """processes that make samples beside the training step; 0: threads between two steps. Left out, up to 4 processes
    for a GPU and none on a CPU. The samples do not depend on it"""

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share}, expected a number between 0 and 1.")
        if empty := [column for column, values in self.where.items() if not values and isinstance(values, tuple)]:
            raise ValueError(f"where.{empty[0]} is an empty list, expected the values that are used.")
        if any(weight <= 0 for weight in self.balance_weights.values()):
            raise ValueError(f"balance_weights is {self.balance_weights}, expected numbers above 0.")
        if self.folds and not 0 <= self.fold < self.folds:
            raise ValueError(f"fold is {self.fold}, expected 0 ... {self.folds - 1}.")


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Random changes of image and targets together. Probabilities are per sample, ranges are uniform."""

    flips: bool = True
    """mirror every axis with probability 0.5, and turn by quarters where crops are square"""
    quarter_turns: float = 0.5
    """probability of a turn by 90, 180 or 270 degrees beside `flips`"""
    flip_last: bool = False
    """mirror left and right with probability 0.5; instead of `flips`"""
    rotate_deg: float = 180.0
    """largest turn, in volumes about the first axis"""
    zoom: tuple[float, float] = (0.7, 1.5)
    """how much larger (> 1) or smaller objects get"""
    affine_probability: float = 0.8
    shear: float = 0.0
    """largest shear, as a factor"""
    shift: float = 0.0
    """largest shift, as a share of the crop's side"""
    elastic_px: float = 0.0
    """size of a smooth random deformation, the standard deviation of its shifts"""
    elastic_grain_px: float = 12.0
    """its smoothness: shifts of places nearer than this go together"""
    elastic_probability: float = 0.5
    blur_sigma_px: tuple[float, float] = (0.3, 1.5)
    blur_probability: float = 0.15
    noise_std: float = 0.05
    noise_probability: float = 0.2
    gamma: tuple[float, float] = (0.6, 1.6)
    gamma_probability: float = 0.3
    brightness: float = 0.1
    contrast: float = 0.25
    intensity_probability: float = 0.5
    multiply: tuple[float, float] = (1.0, 1.0)
    """brighten or darken by a factor"""
    multiply_probability: float = 0.0
    stain_probability: float = 0.0
    """lay patches of brown immunostain over bright colour pictures"""
    glare_probability: float = 0.0
    """lay a broad glow over dark pictures, in which nuclei keep a fraction of their contrast"""
    grey_probability: float = 0.1
    """replace a colour picture by its mean over the channels"""
    shuffle_channels_probability: float = 0.0
    at_most: int = 0
    """of all these changes a sample gets 0 to so many, drawn anew for each; 0 for no such limit"""

    def __post_init__(self) -> None:
        for name in ("zoom", "blur_sigma_px", "gamma", "multiply"):
            low, high = getattr(self, name)
            if not 0 <= low <= high or (name == "zoom" and low == 0):
                raise ValueError(f"{name} is {[low, high]}, expected a positive number and one that is not smaller.")
        for name in ("rotate_deg", "shear", "shift", "elastic_px", "noise_std", "brightness", "contrast"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more.")


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """What the heads are asked for."""

    gap: bool = False
    """foreground: cells that touch, corners included, each lose the layer at which they do, so that they are apart;
    the decoder `components` grows it back"""
    boundary_px: int = 2
    """boundary: its width in voxels, half on either side"""
    boundary_blur_px: float = 1.0
    """boundary: standard deviation of a Gaussian that softens it, in px of a voxel's shortest side; 0 for none"""


@dataclass(frozen=True, slots=True)
class LossConfig:
    """One loss per head, and how their pixels are weighted. Terms are summed."""

    foreground: Literal["bce", "dice", "bce+dice", "focal"] = "bce+dice"
    distance: Literal["bce", "smooth_l1", "mse"] = "bce"
    distance_weight: float = 1.0
    boundary: Literal["bce", "dice", "bce+dice", "focal"] = "bce+dice"
    classes: Literal["cross_entropy", "dice", "cross_entropy+dice", "focal"] = "cross_entropy"
    class_weights: tuple[float, ...] = ()
    """of cross-entropy and focal loss, one a class; empty for all alike"""
    label_smoothing: float = 0.0
    """of a classifier's cross-entropy"""
    focal_gamma: float = 2.0
    weights: Literal["cells", "flat", "balanced", "falk"] = "cells"
    """of pixels: more for small cells and between cells that nearly touch; all alike; cells and background alike in
    sum; or the map of Falk et al. 2019"""
    separation_weight: float = 3.0
    """cells: extra weight of pixels between cells that touch or nearly touch; falk: the factor lambda"""
    small_object_weight: float = 2.0
    """cells: the pixels of a small cell weigh up to this much more, so that it counts like a large one"""
    separation_sigma_px: float = 6.0
    """falk: how far apart cells may be to be kept apart"""
    background_weight: float = 0.1
    """falk: weight far away from any cell"""
    background_sigma_px: float = 10.0
    """falk: how fast the weight falls to it"""


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """How weights move."""

    method: Literal["adamw", "adam", "sgd"] = "adamw"
    """adamw keeps weight decay apart from the gradient; with adam and sgd it is an L2 penalty"""
    rate: float = 2e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    """of sgd"""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup_steps: int = 100
    plateau_patience: int = 4
    """validations without a better score after which the rate halves"""
    least_rate: float = 0.0
    """below which it does not halve any more"""
    rates: dict[str, float] = field(default_factory=dict)
    """factor of the rate by the beginning of parameter names, e.g. {"down." = 0.1}; the longest beginning counts"""
    gradient_clip: float = 1.0
    """largest norm of the gradient; 0 for none"""
    ema_decay: float = 0.998
    """moving average of the weights, used for validation and export; 0 for none"""
