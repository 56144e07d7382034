"""Scores of classifiers against scikit-learn where it is installed, and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellengine.metrics import calibration_error, evaluate_classes, pool, roc_auc


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """True classes, all of them present, and probabilities with ties."""
    classes = draw(st.integers(2, 4))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    truth = np.concatenate([np.arange(classes), random.integers(0, classes, draw(st.integers(0, 30)))])
    votes = random.integers(1, 5, (truth.size, classes))
    return truth, votes / votes.sum(axis=1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(answers())
def test_equals_scikit_learn(answer: tuple[np.ndarray, np.ndarray]) -> None:
    peer = pytest.importorskip("sklearn.metrics", reason="the peer scikit-learn is not installed")
    truth, probabilities = answer
    classes, predicted = probabilities.shape[1], probabilities.argmax(axis=1)
    scores = evaluate_classes(truth, predicted, classes, probabilities)
    assert (scores.confusion == peer.confusion_matrix(truth, predicted, labels=range(classes))).all()
    assert scores.accuracy == pytest.approx(peer.accuracy_score(truth, predicted))
    assert scores.balanced_accuracy == pytest.approx(peer.balanced_accuracy_score(truth, predicted))
    assert scores.recall == pytest.approx(peer.recall_score(truth, predicted, average=None))
    given_classes = np.unique(predicted)
    precision = peer.precision_score(truth, predicted, average=None, labels=given_classes)
    assert scores.precision[given_classes] == pytest.approx(precision)
    if classes == 2:
        assert scores.roc_auc == pytest.approx(peer.roc_auc_score(truth, probabilities[:, 1]))
    else:
        assert scores.roc_auc == pytest.approx(peer.roc_auc_score(truth, probabilities, multi_class="ovr"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=20))
def test_roc_auc_is_the_chance_that_a_positive_scores_higher(items: list[tuple[bool, int]]) -> None:
    positive = [score for right, score in items if right]
    negative = [score for right, score in items if not right]
    area = roc_auc([right for right, _ in items], [score for _, score in items])
    if not positive or not negative:
        assert np.isnan(area)
        return
    wins = sum((p > n) + (p == n) / 2 for p in positive for n in negative)
    assert area == pytest.approx(wins / (len(positive) * len(negative)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=20), st.integers(1, 15))
def test_calibration_error_by_bins(items: list[tuple[float, bool]], bins: int) -> None:
    expected = 0.0
    for number in range(bins):
        inside = [
            (sure, right) for sure, right in items if min(max(int(np.ceil(sure * bins)) - 1, 0), bins - 1) == number
        ]
        if inside:
            confidence, accuracy = np.mean([sure for sure, _ in inside]), np.mean([right for _, right in inside])
            expected += len(inside) / len(items) * abs(confidence - accuracy)
    assert calibration_error(*zip(*items, strict=True), bins) == pytest.approx(expected)


def test_honest_and_boastful_classifiers() -> None:
    right = np.arange(100) < 70
    assert calibration_error(np.full(100, 0.7), right) == pytest.approx(0.0)
    assert calibration_error(np.full(100, 1.0), right) == pytest.approx(0.3)


def test_without_probabilities_what_needs_them_is_undefined() -> None:
    row = evaluate_classes([0, 1, 1], [0, 1, 0], 2).row()
    assert np.isnan(row["roc_auc"])
    assert np.isnan(row["calibration_error"])
    assert row["accuracy"] == pytest.approx(2 / 3)
    assert row["balanced_accuracy"] == pytest.approx(0.75)


def test_a_class_the_truth_lacks_does_not_enter_the_mean() -> None:
    scores = evaluate_classes([0, 0, 2], [0, 1, 2], 3)
    assert np.isnan(scores.recall[1])
    assert scores.balanced_accuracy == pytest.approx(0.75)


def test_sum_holds_the_items_of_both() -> None:
    shares = np.array([[0.9, 0.1], [0.2, 0.8]])
    both = pool([evaluate_classes([0, 1], [0, 1], 2, shares), evaluate_classes([1, 0], [0, 1], 2, shares)])
    assert both.accuracy == 0.5
    assert both.roc_auc == 0.5
    assert np.isnan(pool([both, evaluate_classes([1], [0], 2)]).roc_auc)
    with pytest.raises(ValueError, match="2 and 3 classes"):
        pool([both, evaluate_classes([1], [0], 3)])


def test_no_items() -> None:
    assert np.isnan(evaluate_classes([], [], 2).accuracy)
    assert np.isnan(evaluate_classes([], [], 2, np.zeros((0, 2))).calibration_error)


@pytest.mark.parametrize(
    ("truth", "predicted", "probabilities", "message"),
    [
        ([0, 1], [0], None, "two lists of one length"),
        ([0, 2], [0, 1], None, "between 0 and 1"),
        ([0, 1], [0, -1], None, "between 0 and 1"),
        ([0, 1], [0, 1], [[1.0, 0.0]], r"found \(1, 2\)"),
    ],
)
def test_what_cannot_be_compared(truth: list, predicted: list, probabilities: list | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_classes(truth, predicted, 2, probabilities)
