"""Boundary scores against distances measured voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.segmentation import find_boundaries

from cellengine.metrics import boundaries_of, evaluate_boundaries, pool


def share_near(these: np.ndarray, those: np.ndarray, tolerance: float, spacing: list[float]) -> int:
    """How many voxels of one mask have a voxel of the other within the tolerance."""
    points, others = np.argwhere(these) * spacing, np.argwhere(those) * spacing
    return sum(
        bool(len(others)) and np.linalg.norm(others - point, axis=1).min() <= tolerance + 1e-9 for point in points
    )


@st.composite
def masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7))
    seed = draw(st.integers(0, 10**6))
    density = draw(st.sampled_from([0.0, 0.03, 0.2, 1.0]))
    random = np.random.default_rng(seed)
    return random.random(shape) < density, random.random(shape) < 0.1


@settings(max_examples=50, deadline=None)
@given(masks(), st.sampled_from([0.0, 1.0, 2**0.5, 2.0, 3.0]), st.booleans())
def test_equals_distances_by_hand(pair: tuple[np.ndarray, np.ndarray], tolerance: float, anisotropic: bool) -> None:
    truth, predicted = pair
    voxel_size = [1.75, 0.8, 0.4][-truth.ndim :] if anisotropic else [1.0] * truth.ndim
    spacing = [size / voxel_size[-1] for size in voxel_size]
    scores = evaluate_boundaries(truth, predicted, tolerance, voxel_size if anisotropic else None)
    assert (scores.predicted, scores.true) == (predicted.sum(), truth.sum())
    assert scores.predicted_near == share_near(predicted, truth, tolerance, spacing)
    assert scores.true_near == share_near(truth, predicted, tolerance, spacing)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=3, max_side=7), elements=st.integers(0, 3)))
def test_boundaries_equal_scikit_image(labels: np.ndarray) -> None:
    assert (boundaries_of(labels) == find_boundaries(labels, connectivity=1, mode="thick")).all()


def test_a_boundary_moved_by_one_voxel_is_found_with_a_tolerance_only() -> None:
    truth, predicted = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    truth[:, 4], predicted[:, 5] = True, True
    assert evaluate_boundaries(truth, predicted, 0).f1 == 0.0
    assert evaluate_boundaries(truth, predicted, 1).f1 == 1.0
    assert evaluate_boundaries(truth, truth, 0).f1 == 1.0


def test_empty_masks() -> None:
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert set(evaluate_boundaries(empty, empty).row().values()) == {1.0}
    assert set(evaluate_boundaries(full, empty).row().values()) == {0.0}
    assert set(evaluate_boundaries(empty, full).row().values()) == {0.0}


def test_sum_adds_the_voxels_of_both() -> None:
    truth, predicted = np.eye(6, dtype=bool), np.eye(6, k=3, dtype=bool)
    right, wrong = evaluate_boundaries(truth, truth, 0), evaluate_boundaries(truth, predicted, 0)
    both = pool([right, wrong])
    assert (both.precision, both.recall) == (6 / 9, 6 / 12)


@pytest.mark.parametrize(
    ("truth", "predicted", "tolerance", "message"),
    [
        (np.zeros((2, 2), bool), np.zeros((3, 2), bool), 1, "cannot be compared"),
        (np.zeros((2, 2), int), np.zeros((2, 2), bool), 1, "found int64 and bool"),
        (np.zeros((2, 2), bool), np.zeros((2, 2), bool), -1, "at least 0 px"),
    ],
)
def test_what_cannot_be_compared(truth: np.ndarray, predicted: np.ndarray, tolerance: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_boundaries(truth, predicted, tolerance)
