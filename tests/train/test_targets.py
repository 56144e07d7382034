"""Targets: what the network is asked to predict, against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

pytest.importorskip("torch")

from cellengine.errors import InputError
from cellengine.train.settings import LossConfig, TargetConfig
from cellengine.train.targets import Maps, class_ids, make_maps
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


def test_a_cell_that_fills_the_picture_is_all_middle() -> None:
    targets = make(np.ones((6, 7), np.uint8), LossConfig())
    assert (targets["distance"] == 1).all()
    assert np.isfinite(targets["weight"]).all()


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


def test_a_gap_parts_cells_that_touch_and_only_those() -> None:
    labels = np.zeros((12, 20), np.uint16)
    labels[2:10, 2:9], labels[2:10, 9:16], labels[2:6, 18:20] = 1, 2, 3
    foreground = make_maps(labels, ("foreground",), TargetConfig(gap=True), LossConfig(weights="flat"))["foreground"]
    _, count = ndimage.label(foreground)
    assert count == 3
    assert not foreground[2:10, 8:10].any()
    assert foreground[2, 2]
    assert foreground[2:6, 18:20].all()


def test_boundaries_are_as_wide_as_asked_and_soft() -> None:
    labels = np.zeros((4, 20, 20), np.uint16)
    labels[:, :, :10], labels[:, :, 10:] = 1, 2
    hard = make_maps(labels, ("boundary",), TargetConfig(boundary_blur_px=0.0), LossConfig(weights="flat"))["boundary"]
    assert hard[2, 10].tolist() == [0.0] * 9 + [1.0, 1.0] + [0.0] * 9
    soft = make_maps(labels, ("boundary",), TargetConfig(), LossConfig(weights="flat"))["boundary"]
    assert 0.5 < soft[2, 10, 10] < 1.0
    assert 0 < soft[2, 10, 12] < soft[2, 10, 11]


def test_what_nobody_knows_weighs_nothing() -> None:
    labels = np.zeros((8, 9), np.uint16)
    labels[2:5, 2:5] = 1
    unknown = np.zeros(labels.shape, bool)
    unknown[6:] = True
    maps = make_maps(labels, ("foreground",), TargetConfig(), LossConfig(), unknown=unknown)
    assert (maps["weight"][6:] == 0).all()
    assert (maps["weight"][:6] >= 1).all()


def test_masks_become_classes_and_stray_values_are_named() -> None:
    mask = np.array([[0, 128, 255], [255, 7, 0]], np.uint8)
    with pytest.raises(InputError, match=r"m\.png: 1 px of values such as 7; expected 0, 128, 255"):
        class_ids(mask, (0, 128, 255), None, "m.png")
    ids, unknown = class_ids(mask, (0, 128, 255), 7, "m.png")
    assert ids.tolist() == [[0, 1, 2], [2, 0, 0]]
    assert unknown is not None
    assert unknown.tolist() == [[False] * 3, [False, True, False]]
