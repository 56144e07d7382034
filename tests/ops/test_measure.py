"""Measurements equal scikit-image's, whole or in blocks."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import regionprops_table

from cellengine.errors import UsageError
from cellengine.ops import ObjectStatistics, ObjectTable, measure_objects

Case = tuple[np.ndarray, np.ndarray]


@st.composite
def pictures(draw: st.DrawFn) -> Case:
    ndim = draw(st.sampled_from([2, 3]))
    shape = draw(hnp.array_shapes(min_dims=ndim, max_dims=ndim, min_side=2, max_side=10))
    labels = draw(hnp.arrays(np.uint32, shape, elements=st.sampled_from([0, 1, 2, 5, 9])))
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.float32]))
    seed = draw(st.integers(0, 99))
    intensity = np.random.default_rng(seed).integers(0, 200, (draw(st.integers(1, 3)), *shape)).astype(dtype)
    return labels, intensity


def same(a: ObjectTable, b: ObjectTable) -> None:
    for field in fields(ObjectTable):
        np.testing.assert_allclose(getattr(a, field.name), getattr(b, field.name), rtol=1e-12, atol=1e-9)


@st.composite
def rows_of_runs(draw: st.DrawFn) -> Case:
    """A few rows of runs of any length, as wide as words of 64 voxels, a little less or more."""
    width = draw(st.sampled_from([63, 64, 65, 128, 200]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    longest = draw(st.sampled_from([2, 10, 90]))
    runs = np.repeat(rng.integers(0, 4, 3 * width), rng.integers(1, longest, 3 * width, endpoint=True))
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.float32]))
    return runs[: 3 * width].reshape(3, width).astype(np.uint32), rng.integers(0, 256, (2, 3, width)).astype(dtype)


@settings(max_examples=40, deadline=None)
@given(pictures() | rows_of_runs(), st.sampled_from([1, 3]))
def test_equals_regionprops(case: Case, workers: int) -> None:
    labels, intensity = case
    found = measure_objects(labels, intensity, workers=workers)
    if not labels.any():
        assert len(found) == 0
        return
    names = ("label", "area", "centroid", "bbox", "intensity_mean", "intensity_min", "intensity_max", "intensity_std")
    expected = regionprops_table(labels.astype(int), np.moveaxis(intensity, 0, -1), properties=names)
    ndim, channels = labels.ndim, len(intensity)
    np.testing.assert_array_equal(found.label, expected["label"])
    np.testing.assert_array_equal(found.area, expected["area"])
    for axis in range(ndim):
        np.testing.assert_allclose(found.centroid[:, axis], expected[f"centroid-{axis}"], rtol=1e-12)
    for side in range(2 * ndim):
        np.testing.assert_array_equal(found.bbox[:, side], expected[f"bbox-{side}"])
    for name in ("intensity_mean", "intensity_min", "intensity_max", "intensity_std"):
        for c in range(channels):
            np.testing.assert_allclose(getattr(found, name)[:, c], expected[f"{name}-{c}"], rtol=1e-6, atol=1e-5)
    for row, label in enumerate(found.label):
        inside = np.pad((labels == label)[(slice(1, -1),) * ndim], 1)
        assert found.touches_border[row] == ((labels == label) & ~inside).any()


@settings(max_examples=40, deadline=None)
@given(pictures(), st.data())
def test_blocks_in_any_order_add_up(case: Case, data: st.DataObject) -> None:
    labels, intensity = case
    cuts = [sorted({0, n, data.draw(st.integers(0, n))}) for n in labels.shape]
    corners = list(pairwise(cuts[0]))
    blocks = [(a, b, c, d) for a, b in corners for c, d in pairwise(cuts[1])]
    parts = [ObjectStatistics(labels.shape, len(intensity)) for _ in range(2)]
    for number, (a, b, c, d) in enumerate(data.draw(st.permutations(blocks))):
        where = (slice(a, b), slice(c, d))
        origin = (a, c, *(0,) * (labels.ndim - 2))
        parts[number % 2].add(labels[where], intensity[(slice(None), *where)], origin)
    parts[0].merge(parts[1])
    same(parts[0].finish(), measure_objects(labels, intensity))


@pytest.mark.parametrize("workers", [1, 3])
def test_tables_grow_with_the_labels(workers: int) -> None:
    """Rows longer than a machine word of marks, runs of one voxel, labels beyond what a thread counts by itself."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3000, (700, 301), dtype=np.uint32)
    labels[:, 100:] = np.repeat(rng.integers(0, 2000, (700, 3)), 67, axis=1)
    labels[650, 7] = 400_000
    intensity = rng.integers(0, 65536, labels.shape, dtype=np.uint16)
    found = measure_objects(labels, intensity, workers=workers)
    flat, values = labels.ravel(), intensity.ravel().astype(np.float64)
    area = np.bincount(flat)
    np.testing.assert_array_equal(found.label, np.flatnonzero(area)[1:])
    np.testing.assert_array_equal(found.area, area[found.label])
    np.testing.assert_allclose(found.intensity_mean[:, 0], np.bincount(flat, values)[found.label] / found.area)
    highest = np.zeros(len(area))
    np.maximum.at(highest, flat, values)
    np.testing.assert_array_equal(found.intensity_max[:, 0], highest[found.label])


def test_labels_alone_and_one_plain_channel() -> None:
    labels = np.array([[0, 4, 4], [7, 0, 4]], np.uint16)
    assert measure_objects(labels).intensity_mean.shape == (2, 0)
    np.testing.assert_array_equal(measure_objects(labels, labels * 2).intensity_max, [[8], [14]])


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(UsageError, match="Intensities of shape"):
        measure_objects(np.zeros((3, 3), int), np.zeros((2, 3, 4)))
    with pytest.raises(UsageError, match="axes"):
        ObjectStatistics((3, 3)).add(np.zeros((1, 3, 3), int))
    with pytest.raises(UsageError, match="merged"):
        ObjectStatistics((3, 3)).merge(ObjectStatistics((3, 4)))


@pytest.mark.parametrize("width", [65, 100, 128, 130, 471])
def test_a_run_that_ends_with_a_word_of_the_last_row(width: int) -> None:
    """The last words of a block hang out of it and are read one by one: what lies before them counts all the same."""
    for stop in range(64, width, 64):
        labels = np.zeros((3, width), np.uint32)
        labels[:, stop - 7 : stop] = 1
        labels[2, stop + 3 : stop + 5] = 2
        found = measure_objects(labels, labels.astype(np.float32))
        inside = min(2, max(0, width - stop - 3))
        assert found.area.tolist() == [21, inside][: len(found.area)]
        assert found.bbox[0].tolist() == [0, stop - 7, 3, stop]
        assert found.intensity_mean[:, 0].tolist() == [1.0, 2.0][: len(found.area)]
