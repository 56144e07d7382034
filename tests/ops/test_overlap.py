"""The overlap table against a dictionary filled voxel by voxel."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellengine.ops.overlap import CHUNK, FIRST_CAPACITY, Overlap, overlap_table

DTYPES = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", ">u2", ">i4", "bool"]


def count_by_hand(a: np.ndarray, b: np.ndarray) -> tuple[dict, dict, dict]:
    """Sizes of the objects of each image and of every pair, one voxel at a time."""
    pairs = Counter(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    sizes_a = Counter(a.ravel().tolist())
    sizes_b = Counter(b.ravel().tolist())
    return (
        {label: n for label, n in sizes_a.items() if label != 0},
        {label: n for label, n in sizes_b.items() if label != 0},
        {(x, y): n for (x, y), n in pairs.items() if x != 0 and y != 0},
    )


def as_dicts(table: Overlap) -> tuple[dict, dict, dict]:
    pairs = zip(table.labels_a[table.rows].tolist(), table.labels_b[table.columns].tolist(), strict=True)
    return (
        dict(zip(table.labels_a.tolist(), table.sizes_a.tolist(), strict=True)),
        dict(zip(table.labels_b.tolist(), table.sizes_b.tolist(), strict=True)),
        dict(zip(pairs, table.counts.tolist(), strict=True)),
    )


@st.composite
def label_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9))
    images = []
    for _ in range(2):
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        values = draw(st.lists(hnp.from_dtype(dtype), min_size=1, max_size=5))
        choice = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, len(values))))
        images.append(np.array([0, *values], dtype)[choice])
    return images[0], images[1]


@settings(max_examples=50, deadline=None)
@given(label_pairs())
def test_equals_counting_by_hand(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    table = overlap_table(a, b)
    assert as_dicts(table) == count_by_hand(a, b)
    assert table.voxels == a.size
    assert table.labels_a.dtype == a.dtype.newbyteorder("=")
    order = np.lexsort((table.columns, table.rows))
    assert (order == np.arange(order.size)).all()
    assert (np.diff(table.labels_a.astype(object)) > 0).all()


@settings(max_examples=25, deadline=None)
@given(label_pairs())
def test_iou_is_intersection_over_union_of_the_masks(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    table = overlap_table(a, b)
    for row, column, iou in zip(table.rows, table.columns, table.iou, strict=True):
        in_a, in_b = a == table.labels_a[row], b == table.labels_b[column]
        assert iou == (in_a & in_b).sum() / (in_a | in_b).sum()


def test_more_pairs_than_the_first_table_holds() -> None:
    random = np.random.default_rng(3)
    a = random.integers(0, 300, (200, 400))
    b = random.integers(-300, 300, (200, 400), np.int16)
    table = overlap_table(a, b)
    assert table.counts.size > 8 * FIRST_CAPACITY
    assert as_dicts(table) == count_by_hand(a, b)


def test_views_that_are_not_contiguous() -> None:
    random = np.random.default_rng(4)
    a = random.integers(0, 9, (40, 60, 7)).astype(np.uint16)
    b = random.integers(0, 9, (60, 40, 7)).astype(np.uint32)
    assert as_dicts(overlap_table(a[::2, ::-3], b.transpose(1, 0, 2)[::2, ::3])) == count_by_hand(
        a[::2, ::-3], b.transpose(1, 0, 2)[::2, ::3]
    )


def test_runs_across_the_pieces_of_a_large_image() -> None:
    a = np.ones((3, CHUNK // 2 + 5), np.uint8)
    b = np.full(a.shape, 7, np.uint16)
    b[2] = 0
    table = overlap_table(a, b)
    assert as_dicts(table) == ({1: a.size}, {7: 2 * a.shape[1]}, {(1, 7): 2 * a.shape[1]})


def test_shapes_must_be_equal() -> None:
    with pytest.raises(ValueError, match="shapes must be equal"):
        overlap_table(np.zeros((2, 3), int), np.zeros((3, 2), int))


def test_labels_must_be_integers() -> None:
    with pytest.raises(ValueError, match="found float64"):
        overlap_table(np.zeros((2, 3)), np.zeros((2, 3), int))
