"""Geometry: what must hold for any image, tile, halo and divisor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellengine.geometry import Region, plan_tiles, round_up


@dataclass(frozen=True)
class Plan:
    image: tuple[int, ...]
    tile: tuple[int, ...]
    halo: tuple[int, ...]
    divisor: tuple[int, ...]

    @property
    def whole(self) -> Region:
        return Region.whole(self.image)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    axes = draw(st.integers(1, 3))
    divisor = tuple(draw(st.sampled_from([1, 2, 4])) for _ in range(axes))
    halo = tuple(draw(st.integers(0, 7)) for _ in range(axes))
    cores = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    tile = tuple(2 * round_up(h, d) + c * d for h, d, c in zip(halo, divisor, cores, strict=True))
    image = tuple(draw(st.integers(1, 23)) for _ in range(axes))
    return Plan(image, tile, halo, divisor)


@given(plans())
def test_cores_partition_the_image(plan: Plan) -> None:
    seen = np.zeros(plan.image, int)
    for tile in plan_tiles(plan.image, plan.tile, plan.halo, plan.divisor):
        seen[tile.core.slices] += 1
        assert tile.read.shape == plan.tile
    assert (seen == 1).all()


@given(plans())
def test_tiles_start_on_the_grid_and_surround_their_core_by_the_halo(plan: Plan) -> None:
    for tile in plan_tiles(plan.image, plan.tile, plan.halo, plan.divisor):
        assert all(a % d == 0 for a, d in zip(tile.read.start, plan.divisor, strict=True))
        assert tile.read.contains(tile.core.grow(plan.halo))


@given(plans())
def test_a_region_seen_from_another_lies_where_it_is_cut_out(plan: Plan) -> None:
    for tile in plan_tiles(plan.image, plan.tile, plan.halo, plan.divisor):
        assert tile.core.seen_from(tile.read).slices == tile.core.relative_to(tile.read)


@given(plans())
def test_cores_come_in_raster_order(plan: Plan) -> None:
    starts = [tile.core.start for tile in plan_tiles(plan.image, plan.tile, plan.halo, plan.divisor)]
    assert starts == sorted(starts)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 9)), min_size=1, max_size=3), st.integers(0, 60))
def test_pieces_partition_a_region_and_are_small(sides: list[tuple[int, int]], voxels: int) -> None:
    region = Region(tuple(a for a, _ in sides), tuple(a + n for a, n in sides))
    seen = np.zeros(region.shape, int)
    for piece in region.pieces(voxels):
        seen[piece.relative_to(region)] += 1
        assert 0 < piece.size <= max(1, voxels)
    assert (seen == 1).all()


def test_a_tile_without_a_core_is_refused() -> None:
    with pytest.raises(ValueError, match="take a larger tile"):
        list(plan_tiles((10, 10), (8, 8), (4, 4), (1, 1)))


def test_intersection_is_empty_rather_than_negative() -> None:
    meeting = Region((0, 0), (4, 4)).intersect(Region((6, 2), (9, 9)))
    assert meeting.size == 0
    assert all(n >= 0 for n in meeting.shape)
