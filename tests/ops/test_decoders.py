"""Seeds and decoders equal their definitions, composed from slow or already tested parts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.morphology import h_maxima as skimage_h_maxima

from cellengine.errors import UsageError
from cellengine.ops import (
    argmax,
    components,
    distance_watershed,
    gaussian,
    grow,
    h_maxima,
    h_maxima_seeds,
    local_maxima_seeds,
    relabel,
    remove_small,
    watershed,
)

sys.path.insert(0, str(Path(__file__).parent))
from reference import slow_h_maxima

shapes = st.sampled_from([2, 3]).flatmap(
    lambda ndim: hnp.array_shapes(min_dims=ndim, max_dims=ndim, min_side=1, max_side=7 if ndim == 2 else 5)
)


@st.composite
def reliefs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    shape = draw(shapes)
    image = draw(hnp.arrays(np.float32, shape, elements=st.integers(0, draw(st.sampled_from([2, 6, 50])))))
    mask = draw(
        st.just(np.ones(shape, bool)) | hnp.arrays(np.bool_, shape, elements=st.sampled_from([True, True, False]))
    )
    return image, mask, draw(st.integers(1, len(shape)))


@settings(max_examples=60, deadline=None)
@given(reliefs(), st.integers(0, 5), st.sampled_from([1, 3]))
def test_h_maxima_are_what_they_are(case: tuple[np.ndarray, np.ndarray, int], h: int, workers: int) -> None:
    image, mask, connectivity = case
    marked, domes = slow_h_maxima(image, h, mask, connectivity)
    seeds = h_maxima_seeds(image, h, mask, connectivity, workers=workers)
    assert sorted(np.flatnonzero(seeds)) == sorted(domes)
    assert (np.diff(seeds[seeds > 0].astype(int)) == 1).all()
    if mask.any() and h <= np.ptp(image[mask]):
        np.testing.assert_array_equal(h_maxima(image, h, mask, connectivity, workers=workers), marked)
    else:
        assert not h_maxima(image, h, mask, connectivity).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(61, 83), (11, 23, 31)])
@pytest.mark.parametrize("h", [1, 3, 20])
def test_h_maxima_equal_scikit_image(shape: tuple[int, ...], dtype: type, h: int) -> None:
    image = ndimage.gaussian_filter(np.random.default_rng(0).random(shape), 1.5)
    image = (60 * (image - image.min()) / np.ptp(image)).astype(dtype)
    np.testing.assert_array_equal(h_maxima(image, h), skimage_h_maxima(image, h))


@settings(max_examples=40, deadline=None)
@given(reliefs(), st.floats(0.5, 4))
def test_local_maxima_keep_their_distance(case: tuple[np.ndarray, np.ndarray, int], distance: float) -> None:
    image, mask, _ = case
    every, _ = slow_h_maxima(image, 1, mask, image.ndim)  # on whole numbers each maximum rises by 1
    plateaus, count = ndimage.label(every, np.ones((3,) * image.ndim))
    tops = [np.argwhere(plateaus == k)[0] for k in range(1, count + 1)]
    tops.sort(key=lambda top: (-image[tuple(top)], tuple(top)))
    kept: list[np.ndarray] = []
    for top in tops:
        if all(np.linalg.norm(top - other) > distance for other in kept):
            kept.append(top)
    seeds = local_maxima_seeds(image, distance, mask=mask)
    assert {tuple(place) for place in np.argwhere(seeds)} == {tuple(top) for top in kept}


def blobs(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    foreground = ndimage.gaussian_filter(rng.random(shape), 1.2).astype(np.float32)
    foreground = (foreground - foreground.min()) / max(np.ptp(foreground), 1e-9)
    return foreground, rng.random(shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([2, 3]).flatmap(
        lambda ndim: hnp.array_shapes(min_dims=ndim, max_dims=ndim, min_side=1, max_side=24 if ndim == 2 else 10)
    ),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.8, 1.5]),
    st.sampled_from([0.0, 0.02, 0.1]),
    st.integers(0, 6),
    st.integers(1, 3),
    st.sampled_from([1, 4]),
    st.booleans(),
)
def test_distance_watershed_is_the_composition_of_its_steps(
    shape: tuple[int, ...],
    seed: int,
    sigma: float,
    h: float,
    small: int,
    connectivity: int,
    workers: int,
    coarse: bool,
) -> None:
    foreground, distance = blobs(shape, seed)
    if coarse:
        distance = np.round(distance * 5) / 5  # plateaus
    connectivity = min(connectivity, len(shape))
    found = distance_watershed(
        foreground,
        distance,
        threshold=0.45,
        smoothing_px=sigma,
        h=h,
        min_size_px=small,
        connectivity=connectivity,
        workers=workers,
    )
    mask = foreground > np.float32(0.45)
    smooth = gaussian(distance, sigma)
    seeds = h_maxima_seeds(smooth, h, mask, connectivity)
    expected = relabel(remove_small(watershed(-smooth, seeds, mask, connectivity), small))
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(0, 1000), st.integers(0, 8), st.integers(0, 5), st.integers(0, 2))
def test_components_are_scipys(shape: tuple[int, ...], seed: int, hole: int, small: int, steps: int) -> None:
    foreground, _ = blobs(shape, seed)
    mask = foreground > np.float32(0.5)
    background, count = ndimage.label(~mask)
    for k in range(1, count + 1):
        inside = background == k
        border = any(inside.take(end, axis).any() for axis in range(mask.ndim) for end in (0, -1))
        if not border and inside.sum() <= hole:
            mask |= inside
    labels = remove_small(ndimage.label(mask)[0].astype(np.uint32), small)
    found = components(foreground, threshold=0.5, grow_px=steps, min_size_px=small, max_hole_px=hole)
    np.testing.assert_array_equal(found, relabel(grow(relabel(labels), steps)))


def test_the_block_a_piece_is_seen_in_does_not_matter() -> None:
    """Cut with a margin of the smoothing radius, a piece keeps its labels: what labelling in blocks rests on."""
    foreground, distance = blobs((160, 160), 7)
    foreground[ndimage.label(foreground > 0.5)[0] == 0] = 0
    whole = distance_watershed(foreground, distance, smoothing_px=1.5, h=0.01)
    pieces, count = ndimage.label(foreground > 0.5)
    assert count > 20
    for k, box in enumerate(ndimage.find_objects(pieces), 1):
        cut = tuple(slice(max(s.start - 6, 0), s.stop + 6) for s in box)
        part = distance_watershed(foreground[cut], distance[cut], smoothing_px=1.5, h=0.01)
        mine = pieces[cut] == k
        np.testing.assert_array_equal(relabel(part * mine), relabel(whole[cut] * mine))


def test_argmax_is_the_first_of_the_highest() -> None:
    scores = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(argmax(scores), scores.argmax(0))
    assert argmax(np.array([[np.nan], [0.1]])) == [1]
    with pytest.raises(UsageError, match="Class scores"):
        argmax(np.zeros((257, 2)))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_pictures(value: float) -> None:
    labels = distance_watershed(np.full((9, 9), value), np.full((9, 9), value))
    assert (labels == value).all()


def test_shapes_must_agree() -> None:
    with pytest.raises(UsageError, match="must agree"):
        distance_watershed(np.zeros((3, 3)), np.zeros((3, 4)))
