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

from cellengine.ops.warp import pick, warp
from cellengine.train.chance import Chance
from cellengine.train.light import changes_of_light
from cellengine.train.settings import AugmentConfig

Array = np.ndarray[Any, Any]
Turns = tuple[Array, ...]
"""maps of voxels onto voxels, (D, D): axes mirrored or exchanged; one of them is drawn"""


class Augmentation:
    """Cuts a crop out of a picture, changed at random: `config` says how, the chance that it is given decides."""

    def __init__(self, config: AugmentConfig, crop_px: Sequence[int], *, nearest: bool = False) -> None:
        """With `nearest` targets keep their values (class ids); else they are interpolated."""
        self.config, self.crop_px, self.nearest = config, tuple(crop_px), nearest
        self.turns = turns_of(config, self.crop_px)
        self.light = changes_of_light(config)
        self.half = np.array([n // 2 for n in crop_px])
        self.middle = np.array([(n - 1) / 2 for n in crop_px])
        self.probabilities = [probability for probability, _ in (*self.turns, *self.light)]

    def __call__(
        self, image: Array, maps: Sequence[Array], centre: Sequence[int], chance: Chance
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The crop around voxel `centre` of `image` (C, *spatial) and of the target `maps` (*spatial).

        Returns both float32, (C, *crop) and (T, *crop). Beyond the border pictures go on mirrored. The first map has to
        be the foreground.
        """
        chosen = self._choose(chance)
        matrix, shift = self._draw_map(chosen, chance)
        shifts = self._draw_deformation(chance)
        # of a crop of even size, the middle lies between two voxels
        offset = self.middle - self.half + centre + shift - matrix @ self.middle
        seen = np.empty((len(image), *self.crop_px), np.float32)
        targets = np.empty((len(maps), *self.crop_px), np.float32)
        pairs = [(image, seen, False), *((m[None], t[None], self.nearest) for m, t in zip(maps, targets, strict=True))]
        onto_voxels = shifts is None and all(v.is_integer() for v in (*matrix.ravel().tolist(), *offset.tolist()))
        for values, out, nearest in pairs:
            if onto_voxels:
                pick(values, matrix, offset, out)
            else:
                warp(values, matrix, offset, out, shifts=shifts, nearest=nearest)
        for happens, (_, change) in zip(chosen[len(self.turns) :], self.light, strict=True):
            if happens:
                seen = change(seen, targets, chance)
        return torch.from_numpy(np.ascontiguousarray(seen, np.float32)), torch.from_numpy(targets)

    def _choose(self, chance: Chance) -> list[bool]:
        """Which of the turns and changes happen to this sample."""
        happens = [chance.random() < probability for probability in self.probabilities]
        if self.config.at_most:
            order = chance.generator.permutation(len(happens))[: chance.integer(0, self.config.at_most + 1)]
            happens = [happened and number in order for number, happened in enumerate(happens)]
        return happens

    def _draw_map(self, chosen: Sequence[bool], chance: Chance) -> tuple[Array, Array]:
        """From voxels of the crop to those of the picture, both counted from their middle: matrix and shift."""
        if chance.random() < self.config.affine_probability:
            matrix, shift = draw_affine(self.config, self.crop_px, chance)
        else:
            matrix, shift = np.eye(len(self.crop_px)), np.zeros(len(self.crop_px))
        for happens, (_, turns) in zip(chosen, self.turns, strict=False):
            if happens:
                matrix = matrix @ turns[chance.integer(0, len(turns))]
        return matrix, shift

    def _draw_deformation(self, chance: Chance) -> Array | None:
        """Smooth shifts (D, *crop) in px, drawn on a grid and interpolated in between (Simard et al. 2003)."""
        config = self.config
        if not config.elastic_px or chance.random() >= config.elastic_probability:
            return None
        dims = len(self.crop_px)
        coarse = (1, dims, *(int(n / config.elastic_grain_px) + 2 for n in self.crop_px))
        values = torch.from_numpy(chance.generator.standard_normal(coarse, np.float32) * np.float32(config.elastic_px))
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


def draw_affine(config: AugmentConfig, crop_px: Sequence[int], chance: Chance) -> tuple[Array, Array]:
    """A turn of the last two axes, a shear, a zoom of each axis and a shift: matrix (D, D) and shift (D,) in px."""
    dims = len(crop_px)
    angle = radians(chance.uniform(-config.rotate_deg, config.rotate_deg))
    bent = np.eye(dims)
    bent[-2:, -2:] = (cos(angle), -sin(angle)), (sin(angle), cos(angle))
    if config.shear:
        shear = [chance.uniform(-config.shear, config.shear) for _ in range(dims * dims)]
        bent = bent @ np.where(np.eye(dims) > 0, 1.0, np.array(shear).reshape(dims, dims))
    zoom = [chance.uniform(1 / config.zoom[1], 1 / config.zoom[0]) for _ in crop_px]
    shift = [n * chance.uniform(-config.shift, config.shift) for n in crop_px]
    return bent * zoom, bent @ shift


def margin_px(config: AugmentConfig, crop_px: Sequence[int]) -> tuple[int, ...]:
    """Voxels around a crop that zooming out needs, on each side: for crops that are cut out before they are changed."""
    shrink = max(0.0, 1 / config.zoom[0] - 1) if config.affine_probability > 0 else 0.0
    return tuple(ceil(n / 2 * shrink) for n in crop_px)
