"""Variation of information and Rand error against scikit-image, and against counting pairs of voxels."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import adapted_rand_error, variation_of_information

from cellengine.metrics import evaluate_partition, pool


@st.composite
def partitions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
    labels = st.sampled_from([0, 1, 2, 40])
    return draw(hnp.arrays(np.uint16, shape, elements=labels)), draw(hnp.arrays(np.int32, shape, elements=labels))


@settings(max_examples=50, deadline=None)
@given(partitions(), st.booleans())
def test_equals_scikit_image(pair: tuple[np.ndarray, np.ndarray], ignore_background: bool) -> None:
    truth, predicted = pair
    scores = evaluate_partition(truth, predicted, ignore_background)
    if ignore_background and not truth.any():
        assert set(scores.row().values()) <= {0.0, 1.0}
        return
    ignored = (0,) if ignore_background else ()
    split, merge = variation_of_information(truth, predicted, ignore_labels=ignored)
    assert (scores.voi_split, scores.voi_merge) == pytest.approx((split, merge), abs=1e-12)
    with np.errstate(invalid="ignore"):
        error, rand_split, rand_merge = adapted_rand_error(truth, predicted, ignore_labels=ignored)
    for ours, theirs in ((scores.adapted_rand_error, error), (scores.rand_split, rand_split)):
        assert np.isnan(theirs) or ours == pytest.approx(theirs)
    assert np.isnan(rand_merge) or scores.rand_merge == pytest.approx(rand_merge)


@settings(max_examples=25, deadline=None)
@given(partitions())
def test_rand_counts_pairs_of_voxels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = (image.ravel().tolist()[:12] for image in pair)
    pairs = list(permutations(range(len(truth)), 2))
    together_true = {(i, j) for i, j in pairs if truth[i] == truth[j]}
    together_predicted = {(i, j) for i, j in pairs if predicted[i] == predicted[j]}
    scores = evaluate_partition(np.array(truth), np.array(predicted), ignore_background=False)
    assert (scores.pairs_true, scores.pairs_predicted) == (len(together_true), len(together_predicted))
    assert scores.pairs_both == len(together_true & together_predicted)


def test_a_split_costs_split_and_a_merge_costs_merge() -> None:
    one, two = np.full((4, 4), 1), np.repeat([1, 2], 8).reshape(4, 4)
    split, merge = evaluate_partition(one, two), evaluate_partition(two, one)
    assert (split.voi_split, split.voi_merge) == (1.0, 0.0)
    assert (merge.voi_split, merge.voi_merge) == (0.0, 1.0)
    assert split.rand_merge == merge.rand_split == 1.0
    assert split.rand_split == merge.rand_merge < 0.5


def test_sum_equals_one_volume_with_labels_of_its_own() -> None:
    random = np.random.default_rng(1)
    truths, answers = random.integers(1, 5, (2, 6, 7)), random.integers(0, 5, (2, 6, 7))
    offsets = np.array([0, 10]).reshape(2, 1, 1)
    for ignore in (True, False):
        together = evaluate_partition(truths + offsets, answers + offsets, ignore)
        single = [evaluate_partition(t, a, ignore) for t, a in zip(truths, answers, strict=True)]
        assert pool(single).row() == pytest.approx(together.row())
