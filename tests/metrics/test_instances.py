"""Scores of instances against a matching by brute force, against StarDist where it is installed, and by hand."""

from __future__ import annotations

from itertools import combinations, permutations
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellengine.metrics import (
    THRESHOLDS,
    evaluate_instances,
    match_objects,
    mean_over_pictures,
    pool,
)
from cellengine.ops.overlap import overlap_table


def iou_matrix(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    rows = [truth == label for label in np.unique(truth) if label]
    columns = [predicted == label for label in np.unique(predicted) if label]
    ious = [(row & column).sum() / (row | column).sum() for row in rows for column in columns]
    return np.array(ious, float).reshape(len(rows), len(columns))


def best_matching(iou: np.ndarray, threshold: float) -> tuple[int, float]:
    """Most pairs, then the greatest sum of IoU, over all ways to pair rows with columns."""
    if iou.shape[0] > iou.shape[1]:
        iou = iou.T
    best = (0, 0.0)
    for columns in permutations(range(iou.shape[1]), iou.shape[0]):
        found = [iou[row, column] for row, column in enumerate(columns) if iou[row, column] >= threshold]
        best = max(best, (len(found), sum(found)))
    return best


@st.composite
def pictures(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Few labels on few pixels, so that exact halves, ties and empty pictures are common."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
    labels = st.sampled_from([0, 1, 2, 5, 900])
    return draw(hnp.arrays(np.uint16, shape, elements=labels)), draw(hnp.arrays(np.int32, shape, elements=labels))


@settings(max_examples=50, deadline=None)
@given(pictures(), st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.4, *THRESHOLDS, 1.0]))
def test_matching_is_the_best_there_is(picture: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    truth, predicted = picture
    match = evaluate_instances(truth, predicted, [threshold]).matches[0]
    tp, iou_sum = best_matching(iou_matrix(truth, predicted), threshold)
    assert match.tp == tp
    assert match.iou_sum == pytest.approx(iou_sum)
    assert match.tp + match.fn == np.unique(truth[truth > 0]).size
    assert match.tp + match.fp == np.unique(predicted[predicted > 0]).size


@settings(max_examples=30, deadline=None)
@given(pictures(), st.sampled_from([0.1, 0.5, 0.7]))
def test_pairs_are_one_to_one_and_above_the_threshold(picture: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    overlap = overlap_table(*picture)
    pairs = match_objects(overlap, threshold)
    assert np.unique(pairs.true).size == np.unique(pairs.predicted).size == pairs.iou.size
    assert (pairs.iou >= threshold).all()
    assert (np.diff(pairs.true) > 0).all()


@settings(max_examples=30, deadline=None)
@given(pictures())
def test_truth_and_prediction_swap_roles(picture: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = picture
    one, other = evaluate_instances(truth, predicted), evaluate_instances(predicted, truth)
    assert one.count_error == -other.count_error
    for a, b in zip(one.matches, other.matches, strict=True):
        assert (a.tp, a.fp, a.fn, a.precision, a.ap, a.pq) == (b.tp, b.fn, b.fp, b.recall, b.ap, b.pq)


@settings(max_examples=30, deadline=None)
@given(pictures(), st.randoms(use_true_random=False))
def test_names_of_labels_do_not_matter(picture: tuple[np.ndarray, np.ndarray], random: Random) -> None:
    truth, predicted = picture
    names = np.arange(1000, dtype=np.int64)
    random.shuffle(names[1:])
    assert evaluate_instances(truth, predicted).mean_ap == evaluate_instances(names[truth], names[predicted]).mean_ap


def test_by_hand() -> None:
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 3, 3]])
    predicted = np.array([[7, 7, 7, 0, 0, 9, 0, 0, 0, 8]])
    scores = evaluate_instances(truth, predicted, [0.5, 0.75, 0.8])
    assert [match.tp for match in scores.matches] == [3, 1, 0]
    assert scores.at(0.75).ap == 1 / 5
    assert scores.at(0.5).sq == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    # SEG asks for more than half of the true object: two of the three are covered by exactly half
    assert scores.seg == pytest.approx(0.75 / 3)
    assert scores.mean_ap == pytest.approx((1 + 1 / 5 + 0) / 3)


def test_nothing_to_find_and_nothing_found_is_perfect() -> None:
    empty = np.zeros((5, 5), np.uint8)
    row = evaluate_instances(empty, empty).row()
    assert {row[name] for name in ("mean_ap", "precision", "recall", "f1", "sq", "pq", "seg")} == {1.0}
    assert row["count_error"] == row["wrong_cells"] == 0


@pytest.mark.parametrize("swap", [False, True])
def test_only_one_side_empty_scores_zero(swap: bool) -> None:
    empty, full = np.zeros((5, 5), np.uint8), np.ones((5, 5), np.uint8)
    row = evaluate_instances(full, empty).row() if swap else evaluate_instances(empty, full).row()
    assert {row[name] for name in ("mean_ap", "precision", "recall", "f1", "sq", "pq", "seg")} == {0.0}


def test_a_picture_without_voxels() -> None:
    assert evaluate_instances(np.zeros((0, 4), int), np.zeros((0, 4), int)).mean_ap == 1.0


def test_pooled_equals_one_large_picture_and_count_errors_do_not_cancel() -> None:
    random = np.random.default_rng(0)
    truths = [blobs(random, 4 + n) for n in range(3)]
    answers = [np.roll(blobs_erased(truth, n), 2, axis=0) for n, truth in enumerate(truths)]
    answers[2][:4, :4] = 500
    answers[2][:4, 8:12] = 501
    answers[2][:4, 16:20] = 502
    single = [evaluate_instances(truth, answer) for truth, answer in zip(truths, answers, strict=True)]
    together = evaluate_instances(
        np.vstack([truth + 1000 * n * (truth > 0) for n, truth in enumerate(truths)]),
        np.vstack([answer + 1000 * n * (answer > 0) for n, answer in enumerate(answers)]),
    )
    pooled = pool(single)
    assert {**pooled.row(), "wrong_cells": 0} == pytest.approx({**together.row(), "wrong_cells": 0})
    assert pooled.wrong_cells == sum(abs(one.count_error) for one in single) > abs(pooled.count_error)
    assert mean_over_pictures(single)["mean_ap"] == pytest.approx(np.mean([one.mean_ap for one in single]))


def test_scores_at_other_thresholds_are_not_pooled() -> None:
    picture = np.ones((2, 2), int)
    with pytest.raises(ValueError, match="cannot be pooled"):
        pool([evaluate_instances(picture, picture, [0.5]), evaluate_instances(picture, picture, [0.6])])
    with pytest.raises(ValueError, match="no scores"):
        pool([])
    with pytest.raises(ValueError, match="no scores"):
        mean_over_pictures([])


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(ValueError, match="above 0 and not above 1"):
        evaluate_instances(np.ones((2, 2), int), np.ones((2, 2), int), [threshold])


def test_a_threshold_that_was_not_asked_for() -> None:
    with pytest.raises(KeyError, match=r"No match at IoU 0\.9"):
        evaluate_instances(np.ones((2, 2), int), np.ones((2, 2), int), [0.5]).at(0.9)


def blobs(random: np.random.Generator, side: int, cell: int = 8) -> np.ndarray:
    """Boxes of random size on a grid, with labels that leave gaps."""
    picture = np.zeros((side * cell, 5 * cell), np.int32)
    for row in range(side):
        for column in range(5):
            height, width = random.integers(2, cell - 1, 2)
            picture[row * cell : row * cell + height, column * cell : column * cell + width] = (
                3 * (row * 5 + column) + 1
            )
    return picture


def blobs_erased(picture: np.ndarray, count: int) -> np.ndarray:
    return np.where(np.isin(picture, np.unique(picture)[1 : 1 + count]), 0, picture)


@pytest.mark.parametrize("seed", range(4))
def test_equals_stardist(seed: int) -> None:
    peer = pytest.importorskip("stardist.matching", reason="the peer stardist is not installed")
    random = np.random.default_rng(seed)
    truth = blobs(random, 6)
    predicted = np.roll(blobs_erased(blobs(random, 6), 3), random.integers(0, 3, 2), axis=(0, 1))
    for ours, theirs in zip(
        evaluate_instances(truth, predicted, (0.1, 0.3, *THRESHOLDS)).matches,
        peer.matching(truth, predicted, thresh=(0.1, 0.3, *THRESHOLDS)),
        strict=True,
    ):
        assert (ours.tp, ours.fp, ours.fn) == (theirs.tp, theirs.fp, theirs.fn)
        assert (ours.precision, ours.recall, ours.f1) == (theirs.precision, theirs.recall, theirs.f1)
        assert ours.ap == theirs.accuracy
        assert (ours.sq, ours.pq) == pytest.approx((theirs.mean_matched_score, theirs.panoptic_quality))


@pytest.mark.data
def test_equals_stardist_on_real_annotations(data: Path) -> None:
    peer = pytest.importorskip("stardist.matching", reason="the peer stardist is not installed")
    imageio = pytest.importorskip("imageio.v3")
    files = sorted((data / "dsb2018" / "labels").glob("*.png"))[:6]
    truths = [imageio.imread(file) for file in files]
    answers = [np.roll(truth, (2, 1), (0, 1)) for truth in truths]
    for by_image in (False, True):
        theirs = peer.matching_dataset(truths, answers, THRESHOLDS, by_image=by_image, show_progress=False)
        ours = [evaluate_instances(truth, answer) for truth, answer in zip(truths, answers, strict=True)]
        if by_image:
            mean = mean_over_pictures(ours)
            assert [mean[f"ap{t:g}"] for t in THRESHOLDS] == pytest.approx([match.accuracy for match in theirs])
        else:
            assert [m.ap for m in pool(ours).matches] == pytest.approx([match.accuracy for match in theirs])
            assert [m.pq for m in pool(ours).matches] == pytest.approx([match.panoptic_quality for match in theirs])


def test_exact_halves_give_one_pair() -> None:
    whole = np.array([[3, 3, 3, 3]])
    halves = np.array([[1, 1, 2, 2]])
    for truth, predicted in ((whole, halves), (halves, whole)):
        match = evaluate_instances(truth, predicted).at(0.5)
        assert (match.tp, match.fp + match.fn) == (1, 1)


def test_below_one_half_a_smaller_pair_is_given_up_for_two() -> None:
    # true 1 overlaps both predictions, true 2 only the one that true 1 fits best
    overlap = np.array([[3, 2], [3, 0]])
    truth, predicted = [], []
    for (row, column), count in np.ndenumerate(overlap):
        truth += [row + 1] * count
        predicted += [column + 1] * count
    match = evaluate_instances(np.array(truth), np.array(predicted), [0.2]).matches[0]
    assert match.tp == 2
    assert match.iou_sum == pytest.approx(2 / 5 + 3 / 6)
    assert all(iou_matrix(np.array(truth), np.array(predicted))[pair] >= 0.2 for pair in ((0, 0), (0, 1), (1, 0)))


def test_no_two_candidates_share_an_object_above_one_half() -> None:
    random = np.random.default_rng(8)
    for _ in range(20):
        iou = iou_matrix(random.integers(0, 4, 30), random.integers(0, 4, 30))
        for (row, column), (other_row, other_column) in combinations(np.argwhere(iou > 0.5), 2):
            assert row != other_row
            assert column != other_column
