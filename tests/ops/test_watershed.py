"""The watershed equals the heapq reference for any input, and scikit-image where that has a rule."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.segmentation import watershed as skimage_watershed

from cellengine.errors import InputError, UsageError
from cellengine.ops import watershed

sys.path.insert(0, str(Path(__file__).parent))
from reference import heapq_watershed

DTYPES = [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64, np.bool_]
Case = tuple[np.ndarray, np.ndarray, np.ndarray | None, int]


@st.composite
def floods(draw: st.DrawFn) -> Case:
    ndim = draw(st.sampled_from([2, 3]))
    shape = draw(hnp.array_shapes(min_dims=ndim, max_dims=ndim, min_side=1, max_side=8))
    dtype = draw(st.sampled_from(DTYPES))
    levels = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, draw(st.sampled_from([1, 4, 100])))))
    image: np.ndarray = levels.astype(dtype)
    if image.dtype.kind in "if":
        image = image - dtype(3)  # below zero too
    if dtype is np.float64:
        image = image / 7 * 1e-3  # finer than float32
    sparse = st.sampled_from([0] * draw(st.sampled_from([3, 12])) + [1, 2, 3])
    markers = draw(hnp.arrays(np.int32, shape, elements=sparse))
    mask = draw(st.none() | hnp.arrays(np.bool_, shape, elements=st.sampled_from([True, True, False])))
    return image, markers, mask, draw(st.integers(1, ndim))


@settings(max_examples=60, deadline=None)
@given(floods(), st.booleans(), st.sampled_from([1, 3]))
def test_equals_the_heapq_reference(case: Case, line: bool, workers: int) -> None:
    image, markers, mask, connectivity = case
    found = watershed(image, markers, mask, connectivity, line, workers=workers)
    np.testing.assert_array_equal(found, heapq_watershed(image, markers, mask, connectivity, line))
    assert found.dtype == np.uint32


def relief_with_distinct_seeds(shape: tuple[int, ...], dtype: type, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A rough relief, full of plateaus, with single-voxel seeds that have a level of their own each."""
    rng = np.random.default_rng(seed)
    image = rng.integers(100, 130, shape).astype(dtype)
    places = rng.choice(image.size, 60, replace=False)
    markers = np.zeros(shape, np.int32)
    markers.flat[places] = np.arange(1, 61)
    image.flat[places] = rng.permutation(60) + 20
    return image, markers


# scikit-image's line queues a voxel again and again: with many neighbours in 3D it does not come to an end
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("shape", "connectivity", "line"),
    [
        ((67, 91), 1, False),
        ((67, 91), 1, True),
        ((67, 91), 2, False),
        ((67, 91), 2, True),
        ((13, 17, 29), 1, False),
        ((13, 17, 29), 1, True),
        ((9, 17, 29), 2, False),
        ((9, 17, 29), 3, False),
    ],
)
def test_equals_scikit_image(shape: tuple[int, ...], connectivity: int, line: bool, dtype: type, masked: bool) -> None:
    image, markers = relief_with_distinct_seeds(shape, dtype, 3)
    mask = np.random.default_rng(4).random(shape) < 0.7 if masked else None
    expected = skimage_watershed(image, markers, connectivity=connectivity, mask=mask, watershed_line=line)
    np.testing.assert_array_equal(watershed(image, markers, mask, connectivity, line), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_large_plateaus_and_many_groups(dtype: type) -> None:
    """Big enough for the ring to grow and for the mask's components to be cut into groups."""
    rng = np.random.default_rng(5)
    image = (rng.random((240, 300)) < 0.01).astype(dtype)
    markers = np.zeros(image.shape, np.int32)
    markers[0, 0], markers[120, 150], markers[239, 299] = 3, 1, 2
    expected = heapq_watershed(image, markers, None, 1)
    np.testing.assert_array_equal(watershed(image, markers), expected)
    mask = np.ones(image.shape, bool)
    mask[::40] = mask[:, ::40] = False
    spread = np.zeros(image.shape, np.int32)
    spread[10::20, 10::20] = np.arange(12 * 15).reshape(12, 15) + 1
    one = watershed(image, spread, mask, workers=1)
    np.testing.assert_array_equal(one, watershed(image, spread, mask, workers=4))
    np.testing.assert_array_equal(one, heapq_watershed(image, spread, mask, 1))


@pytest.mark.parametrize("shape", [(130, 170), (17, 30, 41)])
@pytest.mark.parametrize("kind", ["noise", "smooth", "skewed", "bad"])
def test_float_relief_of_many_bins(shape: tuple[int, ...], kind: str) -> None:
    rng = np.random.default_rng(6)
    image = rng.normal(size=shape).astype(np.float32)
    if kind == "smooth":
        image = np.cumsum(np.cumsum(image, 0), 1).astype(np.float32)
    if kind == "skewed":  # nearly everything in one bin
        image = np.exp(20 * image).astype(np.float32)
    if kind == "bad":
        image.flat[rng.choice(image.size, 300, replace=False)] = np.inf
        image.flat[rng.choice(image.size, 300, replace=False)] = -np.inf
    markers = np.zeros(shape, np.int32)
    markers.flat[rng.choice(image.size, 40, replace=False)] = np.arange(1, 41)
    np.testing.assert_array_equal(watershed(image, markers), heapq_watershed(image, markers, None, 1))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_slabs_differ_from_the_whole_at_few_voxels(dtype: type, masked: bool) -> None:
    """Confluent cells of about 12 px, with an overlap of 24: nearly the exact labels, for any number of workers."""
    rng = np.random.default_rng(7)
    shape = (430, 90)
    centres = rng.choice(shape[0] * shape[1], 270, replace=False)
    markers = np.zeros(shape, np.int32)
    markers.flat[centres] = np.arange(1, 271)
    distance = ndimage.distance_transform_edt(markers == 0)
    noisy = ndimage.gaussian_filter(distance * 8 + rng.normal(0, 6, shape), 0.7)
    image = np.clip(np.round(noisy), 0, 255).astype(dtype)
    mask = rng.random(shape) < 0.97 if masked else None
    exact = watershed(image, markers, mask)
    found = watershed(image, markers, mask, overlap_px=24, workers=1)
    assert (found != exact).mean() < 0.005
    np.testing.assert_array_equal(found > 0, exact > 0)
    np.testing.assert_array_equal(found, watershed(image, markers, mask, overlap_px=24, workers=3))


def test_slabs_without_a_seed_are_reached_in_the_end() -> None:
    image = np.arange(100, dtype=np.uint8).reshape(100, 1) + np.zeros((1, 5), np.uint8)
    markers = np.zeros(image.shape, np.int32)
    markers[0, 0], markers[99, 4] = 1, 2
    mask = np.ones(image.shape, bool)
    mask[50], mask[70:75] = False, False
    exact = watershed(image, markers, mask)
    np.testing.assert_array_equal(watershed(image, markers, mask, overlap_px=2), exact)
    assert set(np.unique(exact[51:70])) == {0}
    assert (watershed(image, markers * (markers < 2), overlap_px=2) == 1).all()


def test_coordinates_are_seeds_one_to_n() -> None:
    image = np.array([[1, 2, 9, 2, 1]], np.uint8)
    np.testing.assert_array_equal(watershed(image, [[0, 4], [0, 0]]), [[2, 2, 2, 1, 1]])
    assert not watershed(image, np.zeros((0, 2), int)).any()


def test_fine_float64_and_nan_are_ordered() -> None:
    image = np.array([[0.0, 1 + 1e-12, 1.0, 0.0]])
    np.testing.assert_array_equal(watershed(image, np.array([[1, 0, 0, 2]])), [[1, 1, 2, 2]])
    image = np.array([[0.0, np.nan, 5.0, np.inf, 0.0]])
    np.testing.assert_array_equal(watershed(image, np.array([[1, 0, 0, 0, 2]])), [[1, 1, 2, 2, 2]])


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (0, 3, 3)])
def test_empty_and_tiny(shape: tuple[int, ...]) -> None:
    assert watershed(np.zeros(shape, np.uint8), np.ones(shape, np.int32)).shape == shape


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros((3, 3)), np.zeros((3, 4), int)), UsageError, "Markers of shape"),
        ((np.zeros((3, 3)), np.zeros((3, 3), int), np.ones((3, 4))), UsageError, "mask of shape"),
        ((np.zeros((3, 3)), np.zeros((3, 3), int), None, 3), UsageError, "connectivity=3"),
        ((np.zeros(3), np.zeros(3, int)), UsageError, "1 axes"),
        ((np.zeros((3, 3)), np.zeros((3, 3))), UsageError, "integers"),
        ((np.zeros((3, 3), complex), np.zeros((3, 3), int)), UsageError, "real numbers"),
        ((np.zeros((3, 3)), np.full((3, 3), -1)), InputError, "outside 1"),
        ((np.zeros((3, 3)), np.full((3, 3), -1, np.int32)), InputError, "outside 1"),
        ((np.zeros((3, 3)), np.full((3, 3), 2**31 - 1)), InputError, "outside 1"),
        ((np.zeros((3, 3)), [[0, 3]]), InputError, "outside the image"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        watershed(*arguments)


def test_slabs_need_an_overlap_and_draw_no_lines() -> None:
    with pytest.raises(UsageError, match="overlap_px=0"):
        watershed(np.zeros((3, 3)), np.zeros((3, 3), int), overlap_px=0)
    with pytest.raises(UsageError, match="watershed_line"):
        watershed(np.zeros((3, 3)), np.zeros((3, 3), int), watershed_line=True, overlap_px=4)
