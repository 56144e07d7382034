"""Scores of class maps against counting pixel by pixel, and against scikit-learn where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellengine.metrics import confusion_matrix, evaluate_semantic, mean_over_pictures, pool
from cellengine.metrics.semantic import CHUNK


@st.composite
def class_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5))
    ids = st.integers(0, draw(st.integers(0, 4)))
    return draw(hnp.arrays(np.uint8, shape, elements=ids)), draw(hnp.arrays(np.int64, shape, elements=ids))


@settings(max_examples=50, deadline=None)
@given(class_maps())
def test_equals_counting_by_hand(maps: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = maps
    scores = evaluate_semantic(truth, predicted, 5)
    for number in range(5):
        true, given_class = truth == number, predicted == number
        both, either = (true & given_class).sum(), (true | given_class).sum()
        if either:
            assert scores.iou[number] == both / either
            assert scores.dice[number] == 2 * both / (true.sum() + given_class.sum())
        else:
            assert np.isnan(scores.iou[number])
            assert np.isnan(scores.dice[number])
    present = [number for number in range(5) if (truth == number).any()]
    assert scores.pixel_accuracy == (truth == predicted).mean()
    assert scores.mean_accuracy == pytest.approx(np.mean([(predicted[truth == n] == n).mean() for n in present]))
    assert scores.frequency_weighted_iou == pytest.approx(sum((truth == n).mean() * scores.iou[n] for n in present))
    assert scores.mean_iou == pytest.approx(np.nanmean(scores.iou))


@settings(max_examples=25, deadline=None)
@given(class_maps(), class_maps())
def test_sum_equals_one_picture_of_both(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> None:
    together = evaluate_semantic(*(np.concatenate([a.ravel(), b.ravel()]) for a, b in zip(one, other, strict=True)))
    assert (pool([evaluate_semantic(*one), evaluate_semantic(*other)]).confusion == together.confusion).all()


@settings(max_examples=25, deadline=None)
@given(class_maps())
def test_equals_scikit_learn(maps: tuple[np.ndarray, np.ndarray]) -> None:
    peer = pytest.importorskip("sklearn.metrics", reason="the peer scikit-learn is not installed")
    truth, predicted = maps[0].ravel(), maps[1].ravel()
    labels = range(5)
    scores = evaluate_semantic(truth, predicted, 5)
    assert (scores.confusion == peer.confusion_matrix(truth, predicted, labels=labels)).all()
    defined = ~np.isnan(scores.dice)
    f1 = peer.f1_score(truth, predicted, labels=labels, average=None, zero_division=0)
    jaccard = peer.jaccard_score(truth, predicted, labels=labels, average=None, zero_division=0)
    assert scores.dice[defined] == pytest.approx(f1[defined])
    assert scores.iou[defined] == pytest.approx(jaccard[defined])
    assert scores.pixel_accuracy == pytest.approx(peer.accuracy_score(truth, predicted))


def test_more_pixels_than_one_piece() -> None:
    truth = np.zeros((3, CHUNK // 2 + 7), np.uint8)
    predicted = truth.copy()
    truth[1:], predicted[2] = 2, 1
    side = truth.shape[1]
    assert confusion_matrix(truth, predicted).tolist() == [[side, 0, 0], [0, 0, 0], [side, side, 0]]


def test_a_class_that_a_picture_lacks_does_not_enter_its_means() -> None:
    half = evaluate_semantic(np.array([0, 0, 2]), np.array([0, 0, 0]), 3)
    assert half.mean_iou == pytest.approx((2 / 3 + 0) / 2)
    full = evaluate_semantic(np.array([1, 1]), np.array([1, 1]), 3)
    assert mean_over_pictures([half, full])["iou_1"] == 1.0
    assert mean_over_pictures([half, full])["iou_2"] == 0.0
    assert np.isnan(mean_over_pictures([full])["iou_2"])


def test_a_picture_without_pixels_is_perfect() -> None:
    row = evaluate_semantic(np.zeros((0, 3), int), np.zeros((0, 3), int)).row()
    assert row["pixel_accuracy"] == row["mean_iou"] == row["frequency_weighted_iou"] == 1.0


@pytest.mark.parametrize(
    ("truth", "predicted", "classes", "message"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), None, "cannot be compared"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), None, "found float64"),
        (np.full((2, 2), 3), np.zeros((2, 2), int), 3, "between 0 and 2; found 0 to 3"),
        (np.full((2, 2), -1), np.zeros((2, 2), int), None, "found -1 to 0"),
        (np.full((2, 2), 5000), np.zeros((2, 2), int), None, "probably an image of instances"),
    ],
)
def test_what_cannot_be_compared(truth: np.ndarray, predicted: np.ndarray, classes: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_semantic(truth, predicted, classes)
