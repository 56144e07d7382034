"""Labels of blocks against the decode of the whole picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label as connected

from cellengine.engine.blocks import (
    Blocks,
    Margins,
    block_margins,
    choose_core,
    join_blocks,
    kept_in_core,
    own_labels,
)
from cellengine.engine.flow import Stop
from cellengine.engine.label import label
from cellengine.engine.predict import SCORE_STEPS
from cellengine.engine.resample import Grid
from cellengine.geometry import Region
from cellengine.spec import Components, Decoder, DistanceWatershed
from tests.engine.blobs import blob_spec

Array = np.ndarray[Any, Any]


def draw_scores(shape: tuple[int, ...], count: int, seed: int, radius: tuple[float, float] = (1.5, 4)) -> Array:
    """Foreground and distance, uint16, of balls that touch and overlap now and then."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape)
    distance = np.zeros(shape)
    for _ in range(count):
        centre = rng.uniform(0, shape)
        away = np.sqrt(((grid - centre.reshape(-1, *(1,) * len(shape))) ** 2).sum(0))
        distance = np.maximum(distance, 1 - away / rng.uniform(*radius))
    noise = rng.uniform(0, 0.1, shape) * (distance > 0)
    return np.stack([(distance > 0) * SCORE_STEPS, (distance + noise).clip(0, 1) * SCORE_STEPS]).astype(np.uint16)


def whole(scores: Array, decoder: Decoder) -> Array:
    return label({"foreground": scores[:1], "distance": scores[1:]}, decoder)


def in_blocks(
    scores: Array, decoder: Decoder, core: tuple[int, ...], margins: Margins, threads: int = 2
) -> tuple[Array, int]:
    shape = scores.shape[1:]
    blocks = Blocks(shape, core, margins)
    out = np.zeros(shape, np.uint32)
    grid = Grid(shape, shape)
    labels = [whole(scores[(slice(None), *block.read.slices)], decoder) for block in blocks]
    kept = [kept_in_core(own, block, grid) for own, block in zip(labels, blocks, strict=True)]
    if not isinstance(decoder, Components):
        trimmed = [own_labels(*pair) for pair in zip(labels, kept, strict=True)]
        labels, kept = [own for own, _ in trimmed], [rest for _, rest in trimmed]

    def read(number: int, region: Region) -> Array:
        return labels[number][region.relative_to(blocks[number].read)]

    names, count = join_blocks(read, kept, blocks, grid, decoder, threads, Stop())
    for number, block in enumerate(blocks):
        out[block.core.slices] = names[number][read(number, block.core)]
    return out, count


def largest_piece(foreground: Array) -> int:
    boxes = ndimage.find_objects(connected(foreground > 0, connectivity=foreground.ndim))
    return max((s.stop - s.start for box in boxes for s in box), default=1)


SHAPES = {2: (46, 61), 3: (21, 26, 31)}
DECODERS: list[Decoder] = [
    DistanceWatershed(smoothing_px=1.0, h=0.05, min_size_px=6, max_hole_px=9),
    DistanceWatershed(smoothing_px=0.5, h=0.02, h_per_px=0.02, min_size_px=3, min_score=0.5, connectivity=2),
    Components(grow_px=2, min_size_px=4),
]


def reach_of(decoder: Decoder) -> int:
    return block_margins(blob_spec(decoder=decoder)).reach


@pytest.mark.parametrize("decoder", DECODERS, ids=["watershed", "watershed-18", "components"])
@pytest.mark.parametrize("ndim", [2, 3])
@settings(max_examples=8)
@given(data=st.data())
def test_blocks_give_the_labels_of_the_whole(ndim: int, decoder: Decoder, data: st.DataObject) -> None:
    shape = SHAPES[ndim]
    scores = draw_scores(shape, data.draw(st.integers(0, 40)), data.draw(st.integers(0, 2**32 - 1)))
    margins = Margins(largest_piece(scores[0]) + 2 * getattr(decoder, "grow_px", 0), reach_of(decoder))
    core = tuple(data.draw(st.integers(5, n)) for n in shape)
    expected = whole(scores, decoder)
    found, count = in_blocks(scores, decoder, core, margins)
    np.testing.assert_array_equal(found, expected)
    assert count == expected.max()


@pytest.mark.parametrize("ndim", [2, 3])
def test_components_of_any_size_are_exact(ndim: int) -> None:
    """Foreground that percolates through the whole picture, with an overlap of a few voxels."""
    rng = np.random.default_rng(ndim)
    mask = rng.random(SHAPES[ndim]) < (0.55 if ndim == 2 else 0.3)
    scores = np.stack([mask, mask]).astype(np.uint16) * SCORE_STEPS
    decoder = Components(grow_px=0, min_size_px=4)
    assert largest_piece(scores[0]) > 20
    found, _ = in_blocks(scores, decoder, (10,) * ndim, Margins(4, 1))
    np.testing.assert_array_equal(found, whole(scores, decoder))


@pytest.mark.parametrize("ndim", [2, 3])
def test_neither_threads_nor_the_order_of_blocks_matter(ndim: int) -> None:
    scores = draw_scores(SHAPES[ndim], 60, 3)
    margins = Margins(9, reach_of(DECODERS[0]))
    results = [in_blocks(scores, DECODERS[0], (11,) * ndim, margins, threads)[0] for threads in (1, 2, 5)]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_a_cell_over_many_blocks_has_one_label_and_touching_cells_stay_two() -> None:
    """Two long cells side by side, each far larger than a block and its overlap, with a valley between them."""
    y = np.arange(60)
    profile = np.where((y >= 10) & (y < 50), 1 - np.abs((y - 10) % 20 - 9.5) / 10, 0)
    distance = np.repeat(profile[:, None], 400, 1)
    distance[:, :5] = distance[:, -5:] = 0
    scores = (np.stack([distance > 0, distance]) * SCORE_STEPS).astype(np.uint16)
    decoder = DistanceWatershed(h=0.1)
    found, count = in_blocks(scores, decoder, (60, 40), Margins(20, 4))
    assert count == 2
    np.testing.assert_array_equal(found, whole(scores, decoder))
    crossing, _ = in_blocks(scores, decoder, (30, 40), Margins(20, 4))  # a block border where the two touch
    np.testing.assert_array_equal(crossing, found)


def test_clumps_larger_than_the_overlap_differ_in_a_cell_in_a_thousand_at_most() -> None:
    """All cells touch in one piece as large as the picture; the overlap is that of one cell."""
    scores = draw_scores((200, 300), 1500, 7, (4, 8))
    decoder = DistanceWatershed(h=0.1)
    expected = whole(scores, decoder)
    assert largest_piece(scores[0]) > 150
    assert expected.max() > 150
    found, _ = in_blocks(scores, decoder, (70, 80), Margins(24, 4))
    changed = np.unique(expected[(found > 0) != (expected > 0)])
    assert len(changed) == 0
    pairs = np.unique(np.stack([expected.ravel(), found.ravel()]), axis=1)
    split = len(pairs[0]) - len(np.unique(expected))
    assert split <= 0.01 * expected.max()


def test_overlap_below_the_size_of_objects_cuts_them() -> None:
    """What the margins are for: with a margin far below the size of a cell the border shows."""
    scores = draw_scores((60, 60), 8, 11, (9, 12))
    found, _ = in_blocks(scores, DECODERS[0], (15, 15), Margins(1, 1))
    assert (found != whole(scores, DECODERS[0])).any()


def test_cores_partition_and_neighbours_meet() -> None:
    margins = Margins(10, 3)
    blocks = Blocks((50, 61), (8, 20), margins)
    seen = np.zeros((50, 61), int)
    for block in blocks:
        seen[block.core.slices] += 1
        assert block.read.contains(block.trusted)
        assert block.trusted.contains(block.core)
    assert (seen == 1).all()
    pairs = set(blocks.neighbours())
    assert all(a < b for a, b in pairs)

    for i, a in enumerate(blocks):
        for j, b in enumerate(blocks[i + 1 :], i + 1):
            away = [
                max(q - p, s - r)
                for p, q, r, s in zip(a.core.stop, b.core.start, b.core.stop, a.core.start, strict=True)
            ]
            if max(away) + 2 <= margins.objects:  # an object of that size has room for a voxel in both
                assert (i, j) in pairs


@pytest.mark.parametrize("shape", [(5000, 7000), (40, 4000, 4000), (900, 1000, 1100)])
def test_cores_follow_from_the_memory(shape: tuple[int, ...]) -> None:
    margins = Margins(40, 8)
    assert choose_core(shape, margins, 10**12) == shape
    core = choose_core(shape, margins, 16_000_000)
    assert core is not None
    assert all(block.read.size <= 16_000_000 for block in Blocks(shape, core, margins))
    assert choose_core(shape, margins, 9_000) is None
