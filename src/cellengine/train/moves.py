"""Where the voxels of augmented crops come from: turns, mirrored axes, shears, zooms and shifts, for many samples.

A sample has to be ready in a fraction of a step, and of a small crop the matrices would take longer than the voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from cellengine.train.chance import BLOCK
from cellengine.train.settings import AugmentConfig

Array = np.ndarray[Any, Any]
Turns = tuple[Array, ...]
"""maps of voxels onto voxels, (D, D): axes mirrored or exchanged; one of them is drawn"""
_STREAM = 2
"""apart from the numbers that `Chance` draws for the same samples, and from those of `detection/samples.py`, 1"""


@dataclass(frozen=True, slots=True)
class Moves:
    """What was drawn for BLOCK samples, one after the other in every field."""

    matrix: Array
    """(n, D, D), from voxels of the crop to those of the picture"""
    offset: Array
    """(n, D) px, to be added, and to it the voxel that the crop is around"""
    bends: list[bool]
    """whether voxels of the crop lie between those of the picture"""
    changes: list[list[bool]]
    """which of the changes of light happen"""


def draw_moves(config: AugmentConfig, crop_px: Sequence[int], light: Sequence[float], seed: int, block: int) -> Moves:
    """For samples `block * BLOCK` and those after it; `light` are the probabilities of the changes of light."""
    random = np.random.default_rng((seed, block, _STREAM))
    turns = turns_of(config, crop_px)
    happens = _choose([probability for probability, _ in turns] + list(light), config.at_most, random)
    bends = random.random(BLOCK) < config.affine_probability
    matrix, shift = _draw_affine(config, crop_px, random)
    matrix[~bends], shift[~bends] = np.eye(len(crop_px)), 0.0
    for number, (_, ways) in enumerate(turns):
        chosen = np.stack(ways)[random.integers(0, len(ways), BLOCK)]
        matrix = np.where(happens[:, number, None, None], matrix @ chosen, matrix)
    # of a crop of even size, the middle lies between two voxels
    middle, half = np.array([(n - 1) / 2 for n in crop_px]), np.array([n // 2 for n in crop_px])
    offset = middle - half + shift - matrix @ middle
    return Moves(matrix, offset, bends.tolist(), happens[:, len(turns) :].tolist())


def _choose(probabilities: Sequence[float], at_most: int, random: np.random.Generator) -> Array:
    """Which of the turns and changes happen to each sample, (BLOCK, number of them)."""
    happens = random.random((BLOCK, len(probabilities))) < np.array(probabilities)
    if at_most:
        rank = random.random(happens.shape).argsort(1).argsort(1)
        happens &= rank < random.integers(0, at_most + 1, (BLOCK, 1))
    return happens


def _draw_affine(config: AugmentConfig, crop_px: Sequence[int], random: np.random.Generator) -> tuple[Array, Array]:
    """A turn of the last two axes, a shear, a zoom of each axis and a shift: (BLOCK, D, D), and (BLOCK, D) in px."""
    dims = len(crop_px)
    angle = np.radians(random.uniform(-config.rotate_deg, config.rotate_deg, BLOCK))
    bent = np.tile(np.eye(dims), (BLOCK, 1, 1))
    bent[:, -2, -2] = bent[:, -1, -1] = np.cos(angle)
    bent[:, -1, -2] = np.sin(angle)
    bent[:, -2, -1] = -bent[:, -1, -2]
    if config.shear:
        shear = random.uniform(-config.shear, config.shear, (BLOCK, dims, dims))
        bent = bent @ np.where(np.eye(dims) > 0, 1.0, shear)
    zoom = random.uniform(1 / config.zoom[1], 1 / config.zoom[0], (BLOCK, 1, dims))
    shift = random.uniform(-config.shift, config.shift, (BLOCK, dims, 1)) * np.array(crop_px)[:, None]
    return bent * zoom, (bent @ shift)[..., 0]


def turns_of(config: AugmentConfig, crop_px: Sequence[int]) -> list[tuple[float, Turns]]:
    """Mirrored axes and quarter turns that `config` asks for, each with its probability."""
    dims = len(crop_px)
    mirrors = [np.diag([-1.0 if a == axis else 1.0 for a in range(dims)]) for axis in range(dims)]
    if not config.flips:
        return [(0.5, (mirrors[-1],))] if config.flip_last else []
    turns: list[tuple[float, Turns]] = [(0.5, (matrix,)) for matrix in mirrors]
    if crop_px[-1] == crop_px[-2] and config.quarter_turns:
        turns.append((config.quarter_turns, tuple(_quarter_turn(dims, times) for times in (1, 2, 3))))
    return turns


def _quarter_turn(dims: int, times: int) -> Array:
    """The map that turns the last two axes by 90 degrees, so many times."""
    matrix = np.eye(dims)
    matrix[-2:, -2:] = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), times)
    return matrix


def margin_px(config: AugmentConfig, crop_px: Sequence[int]) -> tuple[int, ...]:
    """Voxels around a crop that zooming out needs, on each side: for crops that are cut out before they are changed."""
    shrink = max(0.0, 1 / config.zoom[0] - 1) if config.affine_probability > 0 else 0.0
    return tuple(ceil(n / 2 * shrink) for n in crop_px)
