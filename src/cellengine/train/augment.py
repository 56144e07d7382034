"""Random changes of image and targets together: one resampling however often a crop is turned, then changes of light.

A sample has to be ready in a fraction of a step, on the same cores. Libraries resample image and targets once for every
change, after a copy that is large enough for all of them; here all turns, shears and zooms of a sample make one map.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, cos, radians, sin
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from cellengine.ops.warp import warp
from cellengine.train.light import changes_of_light
from cellengine.train.settings import AugmentConfig

Array = np.ndarray[Any, Any]
Turns = tuple[Array, ...]
"""maps of voxels onto voxels, (D, D): axes mirrored or exchanged; one of them is drawn"""


class Augmentation:
    """Cuts a crop out of a picture, changed at random; `config` says how, the generator that it is given decides."""

    def __init__(self, config: AugmentConfig, crop_px: Sequence[int], *, nearest: bool = False) -> None:
        """With `nearest` targets keep their values (class ids); else they are interpolated."""
        self.config, self.crop_px, self.nearest = config, tuple(crop_px), nearest
        self.turns = turns_of(config, self.crop_px)
        self.light = changes_of_light(config)
        self.probabilities = np.array([probability for probability, _ in (*self.turns, *self.light)])

    def __call__(
        self, image: Array, maps: Sequence[Array], centre: Sequence[int], random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The crop around voxel `centre` of `image` (C, *spatial) and of the target `maps` (*spatial).

        Returns both float32, (C, *crop) and (T, *crop). Beyond the border pictures go on mirrored. The first map has to
        be the foreground.
        """
        chosen = self._choose(random)
        matrix, shift = self._draw_map(chosen[: len(self.turns)], random)
        shifts = self._draw_deformation(random)
        size = np.array(self.crop_px)
        # of a crop of even size, the middle lies between two voxels
        offset = np.asarray(centre) - size // 2 + (size - 1) / 2 + shift - matrix @ ((size - 1) / 2)
        onto_voxels = shifts is None and all(float(v).is_integer() for v in (*matrix.flat, *offset))
        seen = np.empty((len(image), *self.crop_px), np.float32)
        targets = np.empty((len(maps), *self.crop_px), np.float32)
        warp(image, matrix, offset, seen, shifts=shifts, nearest=onto_voxels)
        for target, values in zip(targets, maps, strict=True):
            warp(values[None], matrix, offset, target[None], shifts=shifts, nearest=onto_voxels or self.nearest)
        for happens, (_, change) in zip(chosen[len(self.turns) :], self.light, strict=True):
            if happens:
                seen = change(seen, targets, random)
        return torch.from_numpy(np.ascontiguousarray(seen, np.float32)), torch.from_numpy(targets)

    def _choose(self, random: np.random.Generator) -> Array:
        """Which of the turns and changes happen to this sample."""
        count = len(self.probabilities)
        happens: Array = random.random(count) < self.probabilities
        if self.config.at_most:
            allowed = random.permutation(count)[: random.integers(self.config.at_most + 1)]
            happens &= np.isin(np.arange(count), allowed)
        return happens

    def _draw_map(self, turned: Array, random: np.random.Generator) -> tuple[Array, Array]:
        """From voxels of the crop to those of the picture, both counted from their middle: matrix and shift."""
        dims = len(self.crop_px)
        matrix, shift = np.eye(dims), np.zeros(dims)
        if random.random() < self.config.affine_probability:
            matrix, shift = draw_affine(self.config, self.crop_px, random)
        for happens, (_, turns) in zip(turned, self.turns, strict=True):
            if happens:
                matrix = matrix @ turns[random.integers(len(turns))]
        return matrix, shift

    def _draw_deformation(self, random: np.random.Generator) -> Array | None:
        """Smooth shifts (D, *crop) in px, drawn on a grid and interpolated in between (Simard et al. 2003)."""
        config = self.config
        if not config.elastic_px or random.random() >= config.elastic_probability:
            return None
        dims = len(self.crop_px)
        coarse = (1, dims, *(int(n / config.elastic_grain_px) + 2 for n in self.crop_px))
        values = torch.from_numpy(random.standard_normal(coarse, np.float32) * np.float32(config.elastic_px))
        linear = "bilinear" if dims == 2 else "trilinear"
        shifts: Array = functional.interpolate(values, self.crop_px, mode=linear, align_corners=True).numpy()[0]
        return shifts


def turns_of(config: AugmentConfig, crop_px: Sequence[int]) -> list[tuple[float, Turns]]:
    """Mirrored axes and quarter turns that `config` asks for, each with its probability."""
    dims = len(crop_px)
    mirrors = [np.diag([-1.0 if a == axis else 1.0 for a in range(dims)]) for axis in range(dims)]
    if not config.flips:
        return [(0.5, (mirrors[-1],))] if config.flip_last else []
    turns: list[tuple[float, Turns]] = [(0.5, (matrix,)) for matrix in mirrors]
    if crop_px[-1] == crop_px[-2] and config.quarter_turns:
        turns.append((config.quarter_turns, tuple(quarter_turn(dims, times) for times in (1, 2, 3))))
    return turns


def quarter_turn(dims: int, times: int) -> Array:
    """The map that turns the last two axes by 90 degrees, so many times."""
    matrix = np.eye(dims)
    matrix[-2:, -2:] = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), times)
    return matrix


def draw_affine(config: AugmentConfig, crop_px: Sequence[int], random: np.random.Generator) -> tuple[Array, Array]:
    """A turn of the last two axes, a shear, a zoom of each axis and a shift: matrix (D, D) and shift (D,) in px."""
    dims = len(crop_px)
    bent = np.eye(dims)
    angle = radians(random.uniform(-config.rotate_deg, config.rotate_deg))
    bent[-2:, -2:] = (cos(angle), -sin(angle)), (sin(angle), cos(angle))
    if config.shear:
        shear = random.uniform(-config.shear, config.shear, (dims, dims))
        np.fill_diagonal(shear, 1.0)
        bent = bent @ shear
    zoom = random.uniform(1 / config.zoom[1], 1 / config.zoom[0], dims)
    shift = random.uniform(-config.shift, config.shift, dims) * crop_px
    return bent * zoom, bent @ shift


def margin_px(config: AugmentConfig, crop_px: Sequence[int]) -> tuple[int, ...]:
    """Voxels around a crop that zooming out needs, on each side: for crops that are cut out before they are changed."""
    shrink = max(0.0, 1 / config.zoom[0] - 1) if config.affine_probability > 0 else 0.0
    return tuple(ceil(n / 2 * shrink) for n in crop_px)
