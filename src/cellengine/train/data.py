"""Annotated pictures of a run, and the random crops that training draws from them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellengine.errors import InputError, UsageError
from cellengine.io.annotated import Item, Picture, list_annotated, open_image, read_annotated
from cellengine.io.boxes import Boxed, is_box_list, list_boxed, read_boxed
from cellengine.io.crops import SPLITS
from cellengine.io.splits import draw_split, join_copies, tell_apart
from cellengine.train.augment import Augmentation
from cellengine.train.augmentations import NONE
from cellengine.train.chance import Chance
from cellengine.train.config import TrainConfig
from cellengine.train.prepared import Prepared, PreparedFolder, prepare_picture
from cellengine.train.recipe import Batch, Samples
from cellengine.train.settings import DataConfig

Array = np.ndarray[Any, Any]
Listed = Item | Boxed

VOXEL_TOLERANCE = 0.05
"""pictures whose voxels differ by less train together"""


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of one run."""

    train: list[Prepared]
    checked: list[Prepared]
    """those of `val`, whose crops the validation losses are measured on"""
    val: list[Listed]
    """read again for every validation when the run keeps its pictures on disk"""
    held: list[Picture]
    """those of `val` in memory; empty when they stay on disk"""

    def truth(self, config: TrainConfig) -> Sequence[Picture] | LazyPictures:
        """The validation pictures, one at a time where they stay on disk."""
        return self.held or LazyPictures(self.val, config)


class LazyPictures(Sequence[Picture]):
    """Pictures that are read when they are looked at, and let go of afterwards."""

    def __init__(self, listed: Sequence[Listed], config: TrainConfig) -> None:
        self.listed, self.config = listed, config

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, index: Any) -> Any:
        """Read one picture; a slice is a list of pictures."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return read_picture(self.listed[index], self.config)


def read_pictures(config: TrainConfig) -> Pictures:
    """Read, scale and make targets of every picture that the configuration names. Raises UsageError or InputError."""
    splits = list_pictures(config)
    kept = PreparedFolder(Path(config.data.cache), config) if config.data.cache else None
    train = [_prepare(listed, config, kept) for listed in splits["train"]]
    held = [] if kept else [read_picture(listed, config) for listed in splits["val"]]
    checked = [prepare_picture(picture, config) for picture in held]
    checked += [_prepare(listed, config, kept) for listed in splits["val"] if kept]
    return Pictures(train, checked, splits["val"], held)


def list_pictures(config: TrainConfig) -> dict[str, list[Listed]]:
    """What the configuration's list names, by split; nothing is decoded. Raises UsageError or InputError."""
    data = config.data
    if not data.path:
        raise UsageError("The configuration names no data: add --set data.path=LIST.csv (or a folder).")
    path = Path(data.path)
    listed: list[Listed]
    if is_box_list(path):
        listed = list(list_boxed(path, where=data.where, validation_share=data.validation_share, seed=config.seed))
    else:
        listed = list(
            list_annotated(
                path,
                kind_column=data.balance_by,
                validation_share=data.validation_share,
                seed=config.seed,
                where=data.where,
                axes=data.axes or None,
            )
        )
        _check_voxels([entry for entry in listed if isinstance(entry, Item)], config)
    # whatever is in another split, test above all, stays out of the folds too
    listed = [entry for entry in listed if item_of(entry).split in SPLITS]
    items = [item_of(entry) for entry in listed]
    splits = [item.split for item in items]
    if data.folds:
        shares = {str(k): 1 / data.folds for k in range(data.folds)}
        parts = draw_split(_groups_with_copies(items), shares, config.seed)
        splits = ["val" if part == str(data.fold) else "train" for part in parts]
    return {s: [entry for entry, split in zip(listed, splits, strict=True) if split == s] for s in SPLITS}


def _groups_with_copies(items: Sequence[Item]) -> list[str]:
    """The group of every picture, one for groups that hold copies of one picture: folds are drawn, the list was not."""
    files = tell_apart([item.image for item in items])
    contents = [(file, item.image_dataset) for file, item in zip(files, items, strict=True)]
    return join_copies([item.group for item in items], contents)


def _check_voxels(items: Sequence[Item], config: TrainConfig) -> None:
    """Raise InputError for the first picture whose voxels are known to be of another size than the model's."""
    wanted = config.voxel_size_um
    if wanted is None or config.data.any_voxel_size:
        return
    for item in items:
        with open_image(item) as source:
            found = source.voxel_size_um
        if found is not None and not np.allclose(found, wanted, rtol=VOXEL_TOLERANCE):
            sizes = " and ".join(" x ".join(f"{side:g}" for side in sides) for sides in (found, wanted))
            raise InputError(
                f"{item.image}: its voxels and those of voxel_size_um are {sizes} um; "
                "`cellengine prepare volumes --voxel-size` resamples pictures to one size, "
                "data.any_voxel_size=true takes them as they are."
            )


def item_of(listed: Listed) -> Item:
    """The picture's place, split and kind."""
    return listed.item if isinstance(listed, Boxed) else listed


def read_picture(listed: Listed, config: TrainConfig) -> Picture:
    """One picture with the channels that the model takes, and its annotation."""
    unknown = () if config.data.ignore_value is None else (config.data.ignore_value,)
    picture = read_boxed(listed) if isinstance(listed, Boxed) else read_annotated(listed, keep=unknown)
    if picture.labels.ndim != config.model.dims:
        raise InputError(
            f"{picture.item.image}: found a picture of {picture.labels.ndim} dimensions, "
            f"the model takes {config.model.dims}."
        )
    return fit_channels(picture, config.model.channels_in)


def fit_channels(picture: Picture, channels: int) -> Picture:
    """A grey picture is repeated for a model of several channels; another number of channels is an InputError."""
    found = picture.image.shape[0]
    if found == 1 and channels > 1:
        return replace(picture, image=np.broadcast_to(picture.image, (channels, *picture.image.shape[1:])))
    if found != channels:
        raise InputError(f"{picture.item.image}: found {found} channels, the model takes {channels}.")
    return picture


def _prepare(listed: Listed, config: TrainConfig, kept: PreparedFolder | None) -> Prepared:
    if kept is None:
        return prepare_picture(read_picture(listed, config), config)
    item = item_of(listed)
    return kept.find(item) or kept.keep(item, prepare_picture(read_picture(listed, config), config))


class PictureSamples(Samples):
    """Random, augmented crops. Sample `i` of epoch `e` is item `e * samples_per_epoch + i`, whoever asks for it."""

    def __init__(self, pictures: Sequence[Prepared], config: TrainConfig) -> None:
        self.config = config
        self.pictures, self.crop_px = pictures, config.data.crop_px
        nearest = any(output.name == "classes" for output in config.model.outputs)
        self.augmentation = Augmentation(config.augment, config.data.crop_px, nearest=nearest)
        self.cumulative = even_shares([p.kind for p in pictures], config.data)

    def __len__(self) -> int:
        return self.config.epochs * self.config.data.samples_per_epoch

    def __getitem__(self, index: int) -> Batch:
        """Image (C, *crop) and targets (T, *crop): a map per head, then weight; all float32."""
        images, targets = self.batch([index])
        return images[0], targets[0]

    def batch(self, numbers: Sequence[int]) -> Batch:
        """See `Samples.batch`: images (n, C, *crop) and targets (n, T, *crop)."""
        first = self.pictures[0]
        images = np.empty((len(numbers), len(first.image), *self.crop_px), np.float32)
        targets = np.empty((len(numbers), len(first.maps), *self.crop_px), np.float32)
        for number, image, target in zip(numbers, images, targets, strict=True):
            chance = Chance(self.config.seed, number)
            picture = self.pictures[draw(self.cumulative, chance)]
            centre = self._draw_centre(picture, chance)
            self.augmentation.fill(image, target, picture.image, list(picture.maps.values()), centre, chance)
        return torch.from_numpy(images), torch.from_numpy(targets)

    def _draw_centre(self, picture: Prepared, chance: Chance) -> tuple[int, ...]:
        shape, centres = picture.image.shape[1:], picture.centres
        if len(centres) and chance.random() < self.config.data.cell_share:
            middle = centres[chance.integer(0, len(centres))].tolist()
            picked = [m + chance.integer(-c // 4, c // 4 + 1) for m, c in zip(middle, self.crop_px, strict=True)]
            return tuple([min(max(p, 0), n - 1) for p, n in zip(picked, shape, strict=True)])
        return tuple([chance.integer(0, n) for n in shape])


def as_they_are(config: TrainConfig) -> TrainConfig:
    """The configuration of crops to check on: the same every time, and not augmented."""
    kinds_as_they_come = replace(config.data, balance_power=1.0, balance_weights={})
    return replace(config, seed=0, augment=NONE, data=kinds_as_they_come)


def even_shares(kinds: Sequence[str], config: DataConfig) -> list[float]:
    """Cumulative shares by which items are drawn, as `balance_power` and `balance_weights` say.

    Raises UsageError for a weight of a kind that there is none of.
    """
    counts = {k: kinds.count(k) for k in dict.fromkeys(kinds)}
    if unknown := sorted(set(config.balance_weights) - set(counts)):
        raise UsageError(f"data.balance_weights names {unknown[0]}, found only {', '.join(sorted(counts))}.")
    by_kind = {k: n ** (config.balance_power - 1) * config.balance_weights.get(k, 1.0) for k, n in counts.items()}
    weights = np.array([by_kind[k] for k in kinds])
    return np.cumsum(weights / weights.sum()).tolist()  # type: ignore[no-any-return]


def draw(cumulative: Sequence[float], chance: Chance) -> int:
    """The number of an item, by its share."""
    return min(bisect_right(cumulative, chance.random()), len(cumulative) - 1)
