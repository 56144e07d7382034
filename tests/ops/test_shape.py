"""Shapes equal scikit-image's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.measure import regionprops_table

from cellengine.errors import UsageError
from cellengine.ops import measure_shapes

LENGTHS = ("axis_major_length", "axis_minor_length")
FLAT = (*LENGTHS, "eccentricity", "perimeter", "solidity")


def check(labels: np.ndarray, workers: int = 1) -> None:
    found = measure_shapes(labels, workers=workers)
    names = FLAT if labels.ndim == 2 else LENGTHS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = regionprops_table(labels.astype(int), properties=("label", *names))
    np.testing.assert_array_equal(found.label, expected["label"])
    for name in names:
        # roots: a rounding of 1e-16 in a moment that is 0 becomes 1e-8 in a length
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=1e-6, atol=2e-6, err_msg=name)
    if labels.ndim == 2:
        angle = regionprops_table(labels.astype(int), properties=("orientation",))["orientation"]
        # round objects have no direction
        long = found.axis_major_length - found.axis_minor_length > 1e-6
        turned = np.sin(found.orientation - angle)
        np.testing.assert_allclose(turned[long], 0, atol=1e-6)


@st.composite
def blobs(draw: st.DrawFn) -> np.ndarray:
    ndim = draw(st.sampled_from([2, 3]))
    shape = draw(hnp.array_shapes(min_dims=ndim, max_dims=ndim, min_side=3, max_side=24 if ndim == 2 else 9))
    noise = np.random.default_rng(draw(st.integers(0, 999))).normal(size=shape)
    noise = ndimage.gaussian_filter(noise, draw(st.sampled_from([0.0, 0.7, 1.5])))
    labels = ndimage.label(noise > draw(st.sampled_from([-0.1, 0.0, 0.1])))[0]
    return (labels * draw(st.sampled_from([1, 3]))).astype(np.uint32)


@settings(max_examples=50, deadline=None)
@given(blobs(), st.sampled_from([1, 3]))
def test_equals_regionprops(labels: np.ndarray, workers: int) -> None:
    if labels.any():
        check(labels, workers)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.uint8, (9, 11), elements=st.sampled_from([0, 1, 2, 5])))
def test_objects_in_parts_and_touching(labels: np.ndarray) -> None:
    if labels.any():
        check(labels)


def test_pixels_lines_and_borders() -> None:
    labels = np.zeros((20, 22), np.uint16)
    labels[0, 0] = 1
    labels[4, 4] = 2
    labels[6, 2:9] = 3
    labels[8:15, 3] = 4
    labels[range(10, 16), range(10, 16)] = 5
    labels[17:, 15:] = 6
    labels[0, 5:22] = 7
    check(labels)
    assert measure_shapes(labels).solidity[0] == 1
    volume = np.zeros((6, 7, 8), np.uint16)
    volume[0, 0, 0], volume[2, 2, 1:7], volume[1:5, 4, 3], volume[4:, 5:, 6:] = 1, 2, 3, 4
    check(volume)


def test_large_disk_and_nothing() -> None:
    y, x = np.mgrid[:300, :400]
    check(((np.hypot(y - 150, (x - 200) / 1.3) < 140) & (x % 90 > 3)).astype(np.uint8))
    assert len(measure_shapes(np.zeros((5, 5), int))) == 0
    assert len(measure_shapes(np.zeros((0, 5, 4), int))) == 0


def test_other_axes_are_refused() -> None:
    with pytest.raises(UsageError, match="axes"):
        measure_shapes(np.zeros(4, int))
