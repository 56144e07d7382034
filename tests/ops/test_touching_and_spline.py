"""Gaps and boundaries equal scikit-image's; spline resampling in boxes equals scipy's on the whole array."""

from __future__ import annotations

from math import ceil, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.segmentation import find_boundaries

from cellengine.geometry import Region
from cellengine.ops.spline import nearest_voxels, spline_box, spline_region
from cellengine.ops.touching import boundary_band, part_touching

LABELS = hnp.arrays(
    np.uint16, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7), elements=st.integers(0, 3)
)


@given(LABELS)
@settings(max_examples=30)
def test_gap_takes_what_find_boundaries_marks_in_cells(labels: np.ndarray) -> None:
    marked = find_boundaries(labels, connectivity=labels.ndim, mode="outer")
    np.testing.assert_array_equal(part_touching(labels), np.where(marked & (labels > 0), 0, labels))


@given(LABELS)
@settings(max_examples=30)
def test_band_of_two_is_the_thick_boundary(labels: np.ndarray) -> None:
    np.testing.assert_array_equal(boundary_band(labels, 2), find_boundaries(labels, connectivity=1, mode="thick"))


def test_wider_band_is_within_the_distance_of_another_label() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (9, 11)).repeat(3, 0).repeat(3, 1).astype(np.uint8)
    points = np.argwhere(np.ones_like(labels))
    far = np.linalg.norm(points[:, None] - points[None], axis=2)
    other = labels.ravel()[:, None] != labels.ravel()[None]
    nearest = np.where(other, far, np.inf).min(axis=1).reshape(labels.shape)
    np.testing.assert_array_equal(boundary_band(labels, 4), nearest <= 2)
    with pytest.raises(ValueError, match="even number"):
        boundary_band(labels, 3)


PAD = 40
"""scipy's own continuation of a spline over the border is not exact for arrays of a few voxels"""


def by_scipy(array: np.ndarray, new_shape: tuple[int, ...]) -> np.ndarray:
    """The whole array at once, as the docstring says, with its mirror images around it."""
    factors = [n / m for n, m in zip(array.shape, new_shape, strict=True)]
    smooth = np.pad(array.astype(float), PAD, mode="symmetric")
    for axis, factor in enumerate(factors):
        sigma = sqrt(max(factor**2 - 1, 0) / 12)
        if sigma:
            smooth = ndimage.gaussian_filter1d(smooth, sigma, axis, radius=ceil(4 * sigma))
    centres = np.meshgrid(
        *((np.arange(m) + 0.5) * f - 0.5 + PAD for m, f in zip(new_shape, factors, strict=True)), indexing="ij"
    )
    return ndimage.map_coordinates(smooth, centres, order=3)


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], Region]:
    sides = [(draw(st.integers(1, 16)), draw(st.integers(1, 16))) for _ in range(draw(st.integers(1, 2)))]
    start = [draw(st.integers(0, new - 1)) for _, new in sides]
    stop = [draw(st.integers(a + 1, new)) for a, (_, new) in zip(start, sides, strict=True)]
    return tuple(n for n, _ in sides), tuple(m for _, m in sides), Region(tuple(start), tuple(stop))


@given(grids(), st.integers(0, 99))
@settings(max_examples=30)
def test_a_box_equals_the_whole(grid: tuple[tuple[int, ...], tuple[int, ...], Region], seed: int) -> None:
    shape, new_shape, region = grid
    array = np.random.default_rng(seed).random(shape)
    needed = spline_region(region, shape, new_shape)
    assert Region.whole(shape).contains(needed)
    box = spline_box(array[needed.slices], region, shape, new_shape)
    np.testing.assert_allclose(box, by_scipy(array, new_shape)[region.slices], atol=1e-5)


def test_nearest_takes_the_voxel_of_the_centre() -> None:
    assert nearest_voxels(0, 3, 12, 3).tolist() == [2, 6, 10]
    assert nearest_voxels(0, 6, 3, 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert nearest_voxels(1, 3, 12, 3).tolist() == [6, 10]
