"""Outlines cover exactly the pixels that they were traced from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cellengine.ops.contours import ring_area, trace_outlines

Array = np.ndarray[Any, Any]


def rings(labels: Array) -> list[tuple[int, Array]]:
    vertices, starts, owners = trace_outlines(labels)
    return [(int(o), vertices[a:b]) for o, a, b in zip(owners, starts[:-1], starts[1:], strict=True)]


def inside(ring: Array, shape: tuple[int, int]) -> Array:
    """Pixels whose centre a line to the right crosses the ring an odd number of times: the slow reference."""
    found = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in zip(ring.tolist(), np.roll(ring, -1, 0).tolist(), strict=True):
        if x0 == x1:
            for y in range(min(y0, y1), max(y0, y1)):
                found[y, :x0] ^= True
    return found


@settings(max_examples=30)
@given(arrays(np.uint32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_rings_fill_their_objects_again(labels: Array) -> None:
    for label in range(1, 4):
        covered = np.zeros(labels.shape, int)
        for owner, ring in rings(labels):
            if owner == label:
                covered += np.where(ring_area(ring) > 0, 1, -1) * inside(ring, labels.shape)
        assert np.array_equal(covered, labels == label)


@settings(max_examples=30)
@given(arrays(np.uint32, (7, 7), elements=st.integers(0, 2)))
def test_areas_add_up_and_every_corner_is_one(labels: Array) -> None:
    found = rings(labels)
    for label in (1, 2):
        assert sum(ring_area(ring) for owner, ring in found if owner == label) == (labels == label).sum()
    for _, ring in found:
        steps = np.diff(np.vstack([ring, ring[:1]]), axis=0)
        assert ((steps == 0).sum(1) == 1).all(), "edges run along the axes"
        assert (np.roll(steps, 1, 0) * steps == 0).all(), "no corner on a straight line"
        assert len(np.unique(ring, axis=0)) == len(ring), "a ring does not meet itself"


def test_a_ring_with_a_hole_and_pixels_that_touch_at_a_corner() -> None:
    labels = np.ones((3, 3), np.uint32)
    labels[1, 1] = 0
    assert sorted(ring_area(ring) for _, ring in rings(labels)) == [-1, 9]
    assert sorted(ring_area(ring) for _, ring in rings(np.eye(3, dtype=np.uint32))) == [1, 1, 1]


@pytest.mark.parametrize("shape", [(0, 4), (5, 0), (3, 3)])
def test_nothing_has_no_outline(shape: tuple[int, int]) -> None:
    assert rings(np.zeros(shape, np.uint32)) == []
