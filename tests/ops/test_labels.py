"""Smoothing and label cleaning equal scipy and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.segmentation import find_boundaries

from cellengine.errors import UsageError
from cellengine.ops import fill_holes, gaussian, grow, outlines, relabel, remove_small

label_images = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9).flatmap(
    lambda shape: hnp.arrays(np.uint32, shape, elements=st.sampled_from([0, 0, 1, 2, 3, 70000]))
)


@settings(max_examples=40, deadline=None)
@given(
    hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=30),
    st.lists(st.floats(0, 4), min_size=3, max_size=3),
    st.sampled_from([1, 3]),
)
def test_gaussian_equals_scipy(shape: tuple[int, ...], sigmas: list[float], workers: int) -> None:
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    sigma = sigmas[: len(shape)]
    expected = ndimage.gaussian_filter(image.astype(np.float64), sigma)
    np.testing.assert_allclose(gaussian(image, sigma, workers=workers), expected, rtol=3e-6, atol=3e-6)


def test_gaussian_does_not_depend_on_the_cut() -> None:
    image = np.random.default_rng(1).random((300, 77)).astype(np.float32)
    np.testing.assert_array_equal(gaussian(image, 2, workers=1), gaussian(image, 2, workers=7))
    volume = np.random.default_rng(1).random((50, 20, 77)).astype(np.float32)
    np.testing.assert_array_equal(gaussian(volume, (1, 2, 0.5), workers=1), gaussian(volume, (1, 2, 0.5), workers=3))


def test_wrong_sigma_is_named() -> None:
    with pytest.raises(UsageError, match="sigma"):
        gaussian(np.zeros((3, 3)), (1, 2, 3))
    with pytest.raises(UsageError, match="sigma"):
        gaussian(np.zeros((3, 3)), -1)


@settings(max_examples=40, deadline=None)
@given(label_images)
def test_relabel_counts_in_raster_order(labels: np.ndarray) -> None:
    names: dict[int, int] = {0: 0}
    for label in labels.ravel().tolist():
        names.setdefault(label, len(names))
    expected = np.vectorize(names.__getitem__)(labels)
    np.testing.assert_array_equal(relabel(labels), expected)
    np.testing.assert_array_equal(relabel(labels.astype(np.int64) * 10**12), expected)


@settings(max_examples=40, deadline=None)
@given(label_images, st.integers(0, 6))
def test_remove_small_counts_voxels(labels: np.ndarray, size: int) -> None:
    counts = {label: int((labels == label).sum()) for label in np.unique(labels)}
    expected = np.vectorize(lambda label: label if counts[label] >= size else 0, otypes=[np.uint32])(labels)
    np.testing.assert_array_equal(remove_small(labels, size), expected)


@settings(max_examples=60, deadline=None)
@given(label_images, st.none() | st.integers(0, 3))
def test_fill_holes_fills_what_one_object_encloses(labels: np.ndarray, limit: int | None) -> None:
    expected = labels.copy()
    background, count = ndimage.label(labels == 0)
    for hole in range(1, count + 1):
        inside = background == hole
        at_border = inside.sum() < ndimage.binary_dilation(np.pad(inside, 1)).sum() and any(
            inside.take(end, axis).any() for axis in range(labels.ndim) for end in (0, -1)
        )
        around = np.unique(labels[ndimage.binary_dilation(inside) & ~inside])
        if not at_border and len(around) == 1 and (limit is None or inside.sum() <= limit):
            expected[inside] = around[0]
    np.testing.assert_array_equal(fill_holes(labels, limit), expected)


@settings(max_examples=40, deadline=None)
@given(label_images)
def test_outlines_equal_scikit_image(labels: np.ndarray) -> None:
    np.testing.assert_array_equal(outlines(labels), find_boundaries(labels.astype(np.int64), mode="inner"))


@settings(max_examples=40, deadline=None)
@given(label_images, st.integers(0, 3))
def test_grow_steps_at_equal_speed(labels: np.ndarray, steps: int) -> None:
    expected = labels.astype(np.int64)
    for _ in range(steps):
        before = expected.copy()
        for voxel in zip(*np.nonzero(before), strict=True):
            for axis in range(labels.ndim):
                for step in (-1, 1):
                    other = list(voxel)
                    other[axis] += step
                    if 0 <= other[axis] < labels.shape[axis] and expected[tuple(other)] == 0:
                        expected[tuple(other)] = before[voxel]
    grown = grow(labels, steps)
    # which of two objects takes a voxel that both reach at once is a matter of order; where and how far is not
    np.testing.assert_array_equal(grown > 0, expected > 0)
    kept = labels > 0
    np.testing.assert_array_equal(grown[kept], labels[kept])
    for label in np.unique(labels[kept]):
        reach = ndimage.binary_dilation(labels == label, iterations=steps) if steps else labels == label
        assert not ((grown == label) & ~reach).any()
