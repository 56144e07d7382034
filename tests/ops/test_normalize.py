"""Statistics equal numpy's for any cut into blocks; scaling equals its formula."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellengine.errors import InputError
from cellengine.ops import (
    Measurement,
    Scale,
    measure,
    normalize_into,
    range_scale,
)

PERCENTILES = (0.0, 1.0, 37.5, 50.0, 99.8, 100.0)
DTYPES = [np.uint8, np.int8, np.uint16, np.int16, np.float32]


def elements(dtype: type) -> st.SearchStrategy[Any]:
    if dtype is np.float32:
        return st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)
    return st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


@st.composite
def cut_pictures(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    dtype = draw(st.sampled_from(DTYPES))
    channels, n = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    picture = draw(hnp.arrays(dtype, (channels, n), elements=elements(dtype)))
    cuts = sorted(draw(st.sets(st.integers(1, n), max_size=4)) | {0, n})
    return picture, cuts


@settings(max_examples=50, deadline=None)
@given(cut_pictures())
def test_statistics_equal_numpy_for_any_blocks(case: tuple[np.ndarray, list[int]]) -> None:
    picture, cuts = case

    def blocks() -> Iterator[np.ndarray]:
        for a, b in pairwise(cuts):
            yield picture[:, a:b]

    for values, found in zip(picture, measure(blocks, len(picture), picture.dtype, PERCENTILES), strict=True):
        exact = values.astype(np.float64)
        assert (found.count, found.nan, found.infinite) == (values.size, 0, 0)
        assert (found.minimum, found.maximum) == (exact.min(), exact.max())
        assert found.mean == pytest.approx(exact.mean(), rel=1e-9, abs=1e-9 * max(1, np.abs(exact).max()))
        assert found.std == pytest.approx(exact.std(), rel=1e-6, abs=1e-7 * max(1, np.abs(exact).max()))
        for p in PERCENTILES:
            assert found.percentiles[p] == pytest.approx(np.percentile(exact, p), rel=1e-12, abs=1e-30)


def test_integer_percentiles_are_numpys_to_the_last_bit() -> None:
    picture = np.random.default_rng(0).integers(0, 65536, (1, 10007), dtype=np.uint16)
    (found,) = measure(lambda: [picture], 1, picture.dtype, PERCENTILES)
    assert list(found.percentiles.values()) == list(np.percentile(picture, PERCENTILES))


def test_float_sums_do_not_depend_on_the_cut() -> None:
    picture = np.random.default_rng(1).normal(100, 50, (1, 5000)).astype(np.float32)
    whole = measure(lambda: [picture], 1, np.float32, (1,))
    pieces = measure(lambda: np.array_split(picture, 37, axis=1)[::-1], 1, np.float32, (1,))
    assert whole == pieces


def test_bad_values_are_counted_and_left_out() -> None:
    picture = np.array([[1, np.nan, 3, np.inf, -np.inf, np.nan]], np.float32)
    (found,) = measure(lambda: [picture], 1, np.float32, (50,))
    assert (found.count, found.nan, found.infinite) == (2, 2, 2)
    assert (found.minimum, found.maximum, found.mean, found.percentiles[50]) == (1, 3, 2, 2)


def test_a_picture_without_any_finite_value_has_no_statistics() -> None:
    (found,) = measure(lambda: [np.full((1, 3), np.nan, np.float32)], 1, np.float32, (50,))
    assert found.count == 0
    assert found.nan == 3
    assert np.isnan(found.mean)


def test_big_endian_and_wide_integers_are_read() -> None:
    picture = np.arange(12).reshape(1, 12)
    for dtype in (">u2", ">i4", "u4", "f8", ">f4", "?"):
        values = picture.astype(dtype)
        (found,) = measure(lambda v=values: [v], 1, values.dtype, (25,))
        assert found.mean == values.astype(np.float64).mean(), dtype
        out = np.empty(values.shape, np.float32)
        normalize_into(values, Scale((1.0,), (2.0,)), out)
        np.testing.assert_array_equal(out, (values.astype(np.float32) - 1) * 2)


def test_wrong_number_of_channels_is_named() -> None:
    with pytest.raises(InputError, match="3 channels"):
        Measurement(3, np.uint8).add(np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(InputError, match="shapes differ"):
        normalize_into(np.zeros((1, 4, 4), np.uint8), Scale((0.0,), (1.0,)), np.zeros((1, 4, 5), np.float32))


def test_a_float_percentile_needs_its_second_sweep() -> None:
    measurement = Measurement(1, np.float32, (50,))
    measurement.add(np.ones((1, 4), np.float32))
    with pytest.raises(ValueError, match="read twice"):
        measurement.finish()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("shape", [(7,), (5, 6), (3, 4, 5)])
def test_normalize_into_is_its_formula(dtype: type, shape: tuple[int, ...]) -> None:
    block = np.random.default_rng(2).integers(0, 100, (2, *shape)).astype(dtype)
    scale = Scale((10.0, 20.0), (0.5, 0.02), -1.0, 15.0)
    out = np.full((2, *(n + 1 for n in shape)), 7, np.float32)
    view = out[(slice(None), *(slice(1, None) for _ in shape))]
    normalize_into(block, scale, view)
    for c in range(2):
        x = block[c].astype(np.float32)
        expected = np.clip((x - np.float32(scale.offset[c])) * np.float32(scale.factor[c]), -1, 15)
        np.testing.assert_array_equal(view[c], expected)
    assert (out[:, 0] == 7).all()


def test_scales_send_what_they_promise_where() -> None:
    picture = np.arange(101, dtype=np.uint8)[None]
    statistics = measure(lambda: [picture], 1, np.uint8, (10, 90))
    out = np.empty(picture.shape, np.float32)
    ranges = [(s.percentiles[10], s.percentiles[90]) for s in statistics]
    normalize_into(picture, range_scale(ranges, clip=(0, 1)), out)
    assert (out[0, 10], out[0, 90], out.min(), out.max()) == (0, 1, 0, 1)
    normalize_into(picture, range_scale([(s.mean, s.mean + s.std) for s in statistics]), out)
    assert out.mean() == pytest.approx(0, abs=1e-6)
    assert out.std() == pytest.approx(1, rel=1e-6)


def test_a_constant_channel_becomes_zero() -> None:
    picture = np.full((1, 9), 200, np.uint8)
    out = np.empty(picture.shape, np.float32)
    normalize_into(picture, range_scale([(200, 200)]), out)
    assert (out == 0).all()
