"""Other grids over one extent: what a voxel becomes, and that boxes are cut out of the whole bit by bit."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import downscale_local_mean

from cellengine.geometry import Region
from cellengine.ops.resample import needed_region, resample_box

Array = np.ndarray[Any, Any]


def whole(image: Array, new_shape: tuple[int, ...]) -> Array:
    shape = image.shape[image.ndim - len(new_shape) :]
    return resample_box(image, Region.whole(new_shape), shape, new_shape)


def mean_covered(line: Array, new_size: int) -> list[float]:
    """What each new voxel covers, in exact fractions, one by one."""
    size, found = len(line), []
    for new in range(new_size):
        start, stop = Fraction(new * size, new_size), Fraction((new + 1) * size, new_size)
        shares = [max(Fraction(0), min(stop, i + 1) - max(start, i)) for i in range(size)]
        found.append(float(sum(s * int(v) for s, v in zip(shares, line, strict=True)) / (stop - start)))
    return found


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], Region]:
    dims = draw(st.sampled_from([2, 3]))
    shape = tuple(draw(st.integers(1, 14)) for _ in range(dims))
    new = tuple(draw(st.integers(1, 14)) for _ in range(dims))
    start = tuple(draw(st.integers(0, n - 1)) for n in new)
    stop = tuple(draw(st.integers(a + 1, n)) for a, n in zip(start, new, strict=True))
    return shape, new, Region(start, stop)


@settings(max_examples=30)
@given(boxes(), st.sampled_from(["uint8", "uint16", "float32", "float64"]), st.integers(0, 5))
def test_a_box_of_the_resampled_is_resampled_from_its_box(
    case: tuple[tuple[int, ...], tuple[int, ...], Region], dtype: str, seed: int
) -> None:
    shape, new, box = case
    image = (np.random.default_rng(seed).random((2, *shape)) * 250).astype(dtype)
    needed = needed_region(box, shape, new)
    assert Region.whole(shape).contains(needed)
    part = resample_box(image[(slice(None), *needed.slices)], box, shape, new)
    assert part.dtype == image.dtype
    np.testing.assert_array_equal(part, whole(image, new)[(slice(None), *box.slices)])


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_reduced_voxels_are_the_mean_of_what_they_cover(size: int, new_size: int, seed: int) -> None:
    size, new_size = max(size, new_size), min(size, new_size)
    line = np.random.default_rng(seed).integers(0, 255, size).astype(np.float32)
    for image in (line[None], line[:, None]):
        found = whole(image, tuple(new_size if n == size and n > 1 else n for n in image.shape))
        if size > 1:
            np.testing.assert_allclose(found.ravel(), mean_covered(line, new_size), rtol=1e-5, atol=1e-4)


def test_whole_factors_equal_the_block_mean_of_scikit_image() -> None:
    image = np.random.default_rng(0).random((12, 32, 40)).astype(np.float32)
    expected = downscale_local_mean(image, (4, 8, 8))
    np.testing.assert_allclose(whole(image, expected.shape), expected, rtol=1e-5)


@pytest.mark.parametrize(("size", "new_size"), [(5, 10), (7, 9), (1, 4), (3, 3), (2, 31)])
def test_enlarged_axes_are_interpolated_between_centres(size: int, new_size: int) -> None:
    line = np.random.default_rng(size).random(size)
    centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    expected = np.interp(centres, np.arange(size), line)  # beyond the outermost centres it repeats them
    np.testing.assert_allclose(whole(line[None], (1, new_size))[0], expected, rtol=1e-12)


def test_axes_may_shrink_and_grow_at_once() -> None:
    image = np.random.default_rng(1).random((9, 4)).astype(np.float64)
    rows = np.array([mean_covered(column * 1e6, 3) for column in np.rint(image.T * 1e6) / 1e6]).T / 1e6
    found = whole(np.rint(image * 1e6) / 1e6, (3, 8))
    columns = np.array([np.interp((np.arange(8) + 0.5) / 2 - 0.5, np.arange(4), row) for row in rows])
    np.testing.assert_allclose(found, columns, rtol=1e-5)


def test_whole_numbers_are_rounded_and_stay_in_their_range() -> None:
    image = np.array([[0, 1, 65535, 65535]], np.uint16)
    assert whole(image, (1, 2)).tolist() == [[0, 65535]]  # 0.5 rounds to even
    assert whole(np.full((3, 7), 255, np.uint8), (2, 3)).tolist() == [[255] * 3] * 2
