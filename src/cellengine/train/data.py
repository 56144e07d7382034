"""Annotated pictures in memory, and the random crops that training draws from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from cellengine.engine.scale import measure_scale
from cellengine.errors import InputError, UsageError
from cellengine.io.annotated import Picture, list_annotated, read_annotated
from cellengine.ops.normalize import normalize_into
from cellengine.spec import Normalize
from cellengine.train.augment import augment, build_augmentation, margin_px
from cellengine.train.config import TrainConfig
from cellengine.train.recipe import Batch
from cellengine.train.targets import Targets, make_targets

Array = np.ndarray[Any, Any]


def read_pictures(config: TrainConfig) -> dict[str, list[Picture]]:
    """The pictures of both splits, with the channels that the model takes. Raises UsageError or InputError."""
    if not config.data.path:
        raise UsageError("The configuration names no data: add --set data.path=LIST.csv (or a folder).")
    items = list_annotated(
        Path(config.data.path),
        kind_column=config.data.balance_by,
        validation_share=config.data.validation_share,
        seed=config.seed,
    )
    channels = config.model.channels_in
    return {s: [fit_channels(read_annotated(i), channels) for i in items if i.split == s] for s in ("train", "val")}


def fit_channels(picture: Picture, channels: int) -> Picture:
    """A grey picture is repeated for a model of several channels; another number of channels is an InputError."""
    found = picture.image.shape[0]
    if found == 1 and channels > 1:
        return replace(picture, image=np.broadcast_to(picture.image, (channels, *picture.image.shape[1:])))
    if found != channels:
        raise InputError(f"{picture.item.image}: found {found} channels, the model takes {channels}.")
    return picture


class Samples(Dataset[Batch]):
    """Random, augmented crops. Sample `i` of epoch `e` is item `e * samples_per_epoch + i`, whoever asks for it."""

    def __init__(self, pictures: Sequence[Picture], config: TrainConfig) -> None:
        self.config = config
        self.pictures = pictures
        self.targets: list[Targets] = [make_targets(p.labels, config.loss) for p in pictures]
        self.centres = [_centres(p.labels) for p in pictures]
        self.transform = build_augmentation(config.augment, config.data.crop_px)
        margin = margin_px(config.augment, config.data.crop_px)
        self.read_px = tuple(c + 2 * m for c, m in zip(config.data.crop_px, margin, strict=True))
        kinds = [p.item.kind for p in pictures]
        counts = {k: kinds.count(k) for k in kinds}
        weights = np.array([counts[k] ** (config.data.balance_power - 1) for k in kinds])
        self.cumulative = np.cumsum(weights / weights.sum())
        self.scaled = [scale_picture(p.image, config.normalize) for p in pictures]

    def __len__(self) -> int:
        return self.config.epochs * self.config.data.samples_per_epoch

    def __getitem__(self, index: int) -> Batch:
        """Image (C, *crop) and targets (3, *crop): foreground, distance, weight; all float32."""
        random = np.random.default_rng((self.config.seed, index))
        chosen = min(int(np.searchsorted(self.cumulative, random.random(), side="right")), len(self.pictures) - 1)
        centre = self._draw_centre(chosen, random)
        targets = self.targets[chosen]
        image = cut(self.scaled[chosen], centre, self.read_px)
        maps = [cut(m[None], centre, self.read_px) for m in (targets.foreground, targets.distance, targets.weight)]
        return augment(self.transform, image, np.concatenate(maps), int(random.integers(2**31)))

    def _draw_centre(self, chosen: int, random: np.random.Generator) -> tuple[int, ...]:
        shape = self.pictures[chosen].labels.shape
        centres = self.centres[chosen]
        if len(centres) and random.random() < self.config.data.cell_share:
            jitter = [random.integers(-c // 4, c // 4 + 1) for c in self.config.data.crop_px]
            picked = centres[random.integers(len(centres))] + jitter
        else:
            picked = [random.integers(n) for n in shape]
        return tuple(int(np.clip(p, 0, n - 1)) for p, n in zip(picked, shape, strict=True))


def _centres(labels: Array) -> Array:
    """One voxel near the middle of each cell, (n, axes)."""
    flat = np.flatnonzero(labels)
    if flat.size == 0:
        return np.empty((0, labels.ndim), np.int64)
    ids = labels.ravel()[flat].astype(np.int64)
    counts = np.maximum(np.bincount(ids), 1)
    axes = np.unravel_index(flat, labels.shape)
    means = np.stack([np.bincount(ids, a) / counts for a in axes], axis=1)
    return means[np.unique(ids)].astype(np.int64)


def scale_picture(image: Array, config: Normalize) -> Array:
    """The picture as the network sees it, float16 to halve memory; scaled exactly as `infer` does."""
    scale = measure_scale(lambda: [image], image.shape[0], image.dtype, config).scale
    scaled = np.empty(image.shape, np.float32)
    normalize_into(image, scale, scaled)
    return scaled.astype(np.float16)


def cut(array: Array, centre: Sequence[int], shape: Sequence[int]) -> Array:
    """Crop (C, *spatial) around `centre`, reflected where it leaves the picture, as float32."""
    index = []
    for c, n, size in zip(centre, shape, array.shape[1:], strict=True):
        at = np.arange(c - n // 2, c - n // 2 + n)
        period = max(2 * (size - 1), 1)
        at = np.abs(at) % period
        index.append(np.minimum(at, period - at) if size > 1 else np.zeros_like(at))
    return np.ascontiguousarray(array[np.ix_(np.arange(array.shape[0]), *index)], dtype=np.float32)
