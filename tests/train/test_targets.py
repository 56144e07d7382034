"""Targets: what the network is asked to predict, against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

pytest.importorskip("torch")

from cellengine.train.settings import LossConfig, TargetConfig
from cellengine.train.targets import Maps, make_maps
from tests.synthetic import draw_cells


def make(labels: np.ndarray, loss: LossConfig) -> Maps:
    return make_maps(labels, ("foreground", "distance"), TargetConfig(), loss)


def slow_distance(labels: np.ndarray) -> np.ndarray:
    """Cell by cell with scipy; the picture is continued by its edge, so that its border is no edge of a cell."""
    out = np.zeros(labels.shape)
    padded = np.pad(labels, 40, mode="edge")
    for label in np.unique(labels[labels > 0]):
        distance = ndimage.distance_transform_edt(padded == label)[40:-40, 40:-40] * (labels == label)
        distance = (distance - 1).clip(0) / max(distance.max() - 1, 1)
        out += distance
    return out


def test_distance_is_one_in_the_middle_of_every_cell_and_matches_the_reference() -> None:
    _, labels = draw_cells((80, 90), 12, seed=3)
    inner = np.zeros_like(labels)
    inner[12:-12, 12:-12] = labels[12:-12, 12:-12]
    whole = np.isin(labels, np.setdiff1d(np.unique(labels), np.unique(np.where(inner > 0, 0, labels)))) * labels
    targets = make(whole, LossConfig())
    np.testing.assert_allclose(targets["distance"].astype(float), slow_distance(whole), atol=1e-3)
    np.testing.assert_array_equal(targets["foreground"], whole > 0)


def test_touching_cells_are_parted_in_distance_and_weigh_more() -> None:
    labels = np.zeros((20, 40), np.uint16)
    labels[5:15, 5:20], labels[5:15, 20:35] = 1, 2
    targets = make(labels, LossConfig(separation_weight=3.0, small_object_weight=0.0))
    assert targets["distance"][10, 19] == 0 < targets["distance"][10, 12]
    assert targets["weight"][10, 19] == 4.0
    assert targets["weight"][0, 0] == 1.0


def test_small_cells_weigh_more_within_the_limit() -> None:
    labels = np.zeros((60, 60), np.uint16)
    labels[2:4, 2:4], labels[10:30, 10:30], labels[35:55, 35:55] = 1, 2, 3
    weight = make(labels, LossConfig(separation_weight=0.0, small_object_weight=2.0))["weight"]
    assert weight[2, 2] == 3.0
    assert weight[20, 20] == 1.0


def test_a_picture_without_cells_is_all_background() -> None:
    targets = make(np.zeros((8, 9), np.uint8), LossConfig())
    assert not targets["foreground"].any()
    assert (targets["weight"] == 1).all()
