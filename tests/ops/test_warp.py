"""Resampling through a map and shifts, against scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellengine.ops.warp import pick, warp, warp_each

SHAPES = (((13, 9), (8, 6)), ((5, 12, 9), (4, 6, 7)), ((1, 7), (3, 5)), ((1, 6, 1), (2, 4, 3)))


def reference(source, matrix, offset, shape, shifts, order):  # type: ignore[no-untyped-def]
    """scipy's interpolation at the same places; its `mirror` does not repeat the outermost voxels either."""
    places = np.indices(shape).astype(float) + (0 if shifts is None else shifts)
    places = np.tensordot(matrix, places, 1) + offset.reshape(-1, *[1] * len(shape))
    if order == 0:
        places = np.floor(places + 0.5)
    return np.stack([ndimage.map_coordinates(c.astype(np.float64), places, order=order, mode="mirror") for c in source])


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.sampled_from(SHAPES),
    dtype=st.sampled_from([np.float16, np.bool_, np.int32]),
    channels=st.integers(1, 3),
    nearest=st.booleans(),
    shifted=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_values_are_those_of_scipy(shapes, dtype, channels, nearest, shifted, seed):  # type: ignore[no-untyped-def]
    (size, shape), random = shapes, np.random.default_rng(seed)
    dims = len(size)
    source = (random.random((channels, *size)) * 200 - (0 if dtype is np.bool_ else 50)).astype(dtype)
    matrix, offset = random.normal(0, 1, (dims, dims)), random.uniform(-20, 20, dims)
    shifts = random.normal(0, 3, (dims, *shape)).astype(np.float32) if shifted else None
    out = np.full((channels, *shape), np.nan, np.float32)
    warp(source, matrix, offset, out, shifts=shifts, nearest=nearest)
    expected = reference(source, matrix, offset, shape, shifts, 0 if nearest else 1)
    np.testing.assert_allclose(out, expected, atol=2e-4 * 200)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.sampled_from(SHAPES),
    dtype=st.sampled_from([np.float16, np.bool_, np.int32]),
    order=st.permutations([0, 1, 2]),
    seed=st.integers(0, 2**31),
)
def test_whole_steps_pick_the_voxels_that_warp_meets(shapes, dtype, order, seed):  # type: ignore[no-untyped-def]
    (size, shape), random = shapes, np.random.default_rng(seed)
    dims = len(size)
    source = (random.random((2, *size)) * 200).astype(dtype)
    axes = [axis for axis in order if axis < dims]
    matrix = np.eye(dims)[axes] * random.choice([-1.0, 1.0], dims)
    offset = random.integers(-25, 25, dims).astype(float)
    picked, met, near = (np.full((2, *shape), np.nan, np.float32) for _ in range(3))
    pick(source, matrix, offset, picked)
    warp(source, matrix, offset, met)
    warp(source, matrix, offset, near, nearest=True)
    np.testing.assert_array_equal(picked, met)
    np.testing.assert_array_equal(picked, near)


def test_whole_steps_copy_values_exactly() -> None:
    source = np.random.default_rng(0).normal(0, 1, (2, 7, 8)).astype(np.float16)
    out = np.empty((2, 4, 3), np.float32)
    pick(source, np.array([[0.0, -1.0], [1.0, 0.0]]), np.array([5.0, 2.0]), out)
    expected = [[[source[c, 5 - j, 2 + i] for j in range(3)] for i in range(4)] for c in range(2)]
    np.testing.assert_array_equal(out, np.array(expected, np.float32))


def test_a_memory_map_and_a_view_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 1, (1, 9, 8)).astype(np.float16)
    np.save(tmp_path / "values.npy", values)
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    found = []
    for source in (values, mapped, np.repeat(values, 2, 2)[:, :, ::2]):
        out = np.empty((1, 5, 5), np.float32)
        warp(source, 0.7 * np.eye(2), np.array([1.2, 3.4]), out)
        found.append(out)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@settings(max_examples=30, deadline=None)
@given(size=st.integers(10, 40), spread=st.floats(0.1, 1.2), seed=st.integers(0, 2**31))
def test_rows_within_the_picture_and_those_that_leave_it(size, spread, seed):  # type: ignore[no-untyped-def]
    """Large crops, whose rows lie within the picture mostly, partly or not at all, in two and three dimensions."""
    random = np.random.default_rng(seed)
    for dims in (2, 3):
        source = random.normal(0, 1, (2, *(size,) * dims)).astype(np.float32)
        shape = (3,) * (dims - 2) + (9, 17)
        matrix = random.normal(0, 1, (dims, dims)) * spread
        offset = size / 2 - matrix @ (np.array(shape) / 2)
        out = np.full((2, *shape), np.nan, np.float32)
        warp(source, matrix, offset, out)
        np.testing.assert_allclose(out, reference(source, matrix, offset, shape, None, 1), atol=1e-4)


def test_places_that_are_no_numbers_read_nothing_outside() -> None:
    source = np.arange(200, dtype=np.uint8).reshape(1, 10, 20)
    for bad in (np.nan, np.inf, -np.inf):
        for row, column in np.ndindex(2, 2):
            matrix = np.eye(2)
            matrix[row, column] = bad
            out = np.empty((1, 4, 5), np.float32)
            warp(source, matrix, np.array([2.0, 3.0]), out)
            finite = out[np.isfinite(out)]
            assert ((finite >= 0) & (finite <= 199)).all()


def test_many_small_pictures_are_those_of_a_call_each() -> None:
    random = np.random.default_rng(0)
    sources = random.normal(0, 1, (4, 2, 9, 11)).astype(np.float16)
    chosen = np.array([2, 0, 3, 3, 1])
    matrices, offsets = random.normal(0, 1, (5, 2, 2)), random.uniform(0, 9, (5, 2))
    out = np.full((5, 2, 6, 7), np.nan, np.float32)
    warp_each(sources, chosen, matrices, offsets, out)
    for i, which in enumerate(chosen):
        alone = np.empty((2, 6, 7), np.float32)
        warp(sources[which], matrices[i], offsets[i], alone)
        np.testing.assert_array_equal(out[i], alone)
