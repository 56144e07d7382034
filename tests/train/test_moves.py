"""Turns, zooms and shifts as often and as far as the configuration says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cellengine.train.augmentations import NONE
from cellengine.train.chance import BLOCK
from cellengine.train.moves import Moves, draw_moves
from cellengine.train.settings import AugmentConfig

BLOCKS = 8
Array = np.ndarray[Any, Any]


def drawn(config: AugmentConfig, crop_px: tuple[int, ...] = (8, 8), light: tuple[float, ...] = ()) -> list[Moves]:
    return [draw_moves(config, crop_px, light, 3, block) for block in range(BLOCKS)]


def matrices(config: AugmentConfig, crop_px: tuple[int, ...] = (8, 8)) -> Array:
    return np.concatenate([moves.matrix for moves in drawn(config, crop_px)])


def test_the_same_numbers_give_the_same_moves_and_others_do_not() -> None:
    first, again = (draw_moves(AugmentConfig(), (8, 8), (0.5,), 3, 0) for _ in range(2))
    np.testing.assert_array_equal(first.matrix, again.matrix)
    np.testing.assert_array_equal(first.offset, again.offset)
    assert (first.bends, first.changes) == (again.bends, again.changes)
    for seed, block in ((4, 0), (3, 1)):
        assert not np.array_equal(draw_moves(AugmentConfig(), (8, 8), (0.5,), seed, block).matrix, first.matrix)


@pytest.mark.parametrize("crop_px", [(8, 8), (4, 8, 8)])
def test_turns_are_even_and_zooms_within_their_range(crop_px: tuple[int, ...]) -> None:
    config = replace(NONE, affine_probability=1.0, rotate_deg=180.0, zoom=(0.5, 2.0))
    found = matrices(config, crop_px)
    lengths = np.linalg.norm(found, axis=1)  # of the axes' images: 1 / zoom
    assert lengths.min() >= 0.5
    assert lengths.max() <= 2.0
    assert np.ptp(lengths) > 1.4
    angles = np.degrees(np.arctan2(found[:, -1, -2], found[:, -2, -2]))
    counts, _ = np.histogram(angles, bins=4, range=(-180, 180))
    assert counts.min() > 0.2 * len(found)
    if len(crop_px) == 3:
        assert (found[:, 0, 1:] == 0).all(), "turns are in the plane"


def test_shears_and_shifts_are_within_their_range() -> None:
    sheared = matrices(replace(NONE, affine_probability=1.0, shear=0.3))
    assert 0.25 < np.abs(sheared[:, 0, 1]).max() <= 0.3
    config = replace(NONE, affine_probability=1.0, shift=0.25)
    offsets = np.concatenate([moves.offset for moves in drawn(config, (8, 16))])
    far = np.abs(offsets + np.array([4, 8])).max(0)  # without a shift, a crop begins half a crop before its centre
    assert (far <= [2, 4]).all()
    assert (far > [1.8, 3.6]).all()


def test_changes_happen_as_often_as_they_should() -> None:
    moves = drawn(replace(NONE, affine_probability=0.25), light=(0.1, 0.9))
    count = BLOCKS * BLOCK
    assert sum(sum(m.bends) for m in moves) / count == pytest.approx(0.25, abs=0.04)
    changes = np.concatenate([np.array(m.changes) for m in moves])
    assert changes.mean(0) == pytest.approx([0.1, 0.9], abs=0.03)
    some = np.concatenate([np.array(m.changes) for m in drawn(replace(NONE, at_most=1), light=(1.0, 1.0, 1.0))])
    assert some.sum(1).max() == 1
    assert some.mean(0) == pytest.approx([1 / 6] * 3, abs=0.04)


def test_mirrored_axes_and_quarter_turns_come_up_alike() -> None:
    found = matrices(replace(NONE, flips=True, quarter_turns=0.75))
    kinds, counts = np.unique(found.round().reshape(len(found), -1), axis=0, return_counts=True)
    assert len(kinds) == 8, "every orientation of a square"
    assert counts.min() > 0.08 * len(found)
    np.testing.assert_array_equal(matrices(NONE), np.broadcast_to(np.eye(2), (BLOCKS * BLOCK, 2, 2)))
