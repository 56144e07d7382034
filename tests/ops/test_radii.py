"""Thickness of pieces of a mask, and seeds that must rise higher in thick ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from cellengine.ops import distance_watershed
from cellengine.ops.radii import inscribed_radii
from cellengine.ops.runs import connect, find_runs

masks = st.one_of(
    arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14))),
    arrays(np.bool_, st.tuples(st.integers(2, 6), st.integers(1, 8), st.integers(1, 8))),
)


@settings(max_examples=60)
@given(masks)
def test_radii_are_within_8_percent_of_the_euclidean(mask: np.ndarray) -> None:
    pieces = connect(find_runs(mask, 0.5), 1)
    labels, count = ndimage.label(mask)
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[(slice(1, -1),) * mask.ndim]
    expected = ndimage.maximum(distance, labels, np.arange(1, count + 1))
    found = inscribed_radii(pieces)
    assert len(found) == count
    np.testing.assert_array_less(0.92 * np.asarray(expected), found + 1e-6)
    np.testing.assert_array_less(found, 1.09 * np.asarray(expected) + 1e-6)


def two_peaks(scale: int) -> tuple[np.ndarray, np.ndarray]:
    """A bar `20 * scale` long and `10 * scale` high whose distance has two maxima, 0.1 above the pass between them."""
    distance = np.full((10 * scale, 20 * scale), 0.8, np.float32)
    distance[5 * scale, 5 * scale] = distance[5 * scale, 15 * scale] = 0.9
    return np.pad(np.ones_like(distance), 2), np.pad(distance, 2)


def test_thick_pieces_need_higher_maxima() -> None:
    for scale, objects in ((1, 2), (3, 1)):  # radius 5: h 0.05; radius 15: h 0.15
        foreground, distance = two_peaks(scale)
        options = {"smoothing_px": 0.0, "h": 0.02}
        assert distance_watershed(foreground, distance, **options).max() == 2
        assert distance_watershed(foreground, distance, h_per_px=0.01, **options).max() == objects


def test_beyond_16_px_the_height_stays() -> None:
    foreground, distance = two_peaks(6)  # radius 30: at 0.005 a px h would be 0.15, with 16 px it is 0.08
    assert distance_watershed(foreground, distance, smoothing_px=0.0, h=0.02, h_per_px=0.005).max() == 2
