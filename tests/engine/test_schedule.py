"""The order of tiles and blocks: each tile once, each block as soon as it can be, nothing forgotten too early."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cellengine.engine.blocks import Blocks, Margins
from cellengine.engine.plan import Plan
from cellengine.engine.schedule import Schedule, tile_number


@st.composite
def cases(draw: st.DrawFn) -> tuple[Plan, tuple[int, ...], Margins]:
    ndim = draw(st.integers(2, 3))
    shape = tuple(draw(st.integers(1, 40 if ndim == 2 else 14)) for _ in range(ndim))
    tile = tuple(draw(st.integers(3, 12)) for _ in range(ndim))
    core = tuple(draw(st.integers(1, n)) for n in shape)
    plan = Plan(shape, tile, (1,) * ndim, (1,) * ndim, draw(st.integers(1, 4)))
    return plan, core, Margins(draw(st.integers(0, 6)), draw(st.integers(0, 3)))


@settings(max_examples=30)
@given(cases())
def test_every_block_finds_its_tiles(case: tuple[Plan, tuple[int, ...], Margins]) -> None:
    plan, core, margins = case
    blocks = Blocks(plan.shape, core, margins)
    schedule = Schedule(plan, blocks)
    schedule.begin([])
    assert schedule.missing == len(plan.tiles)
    here: set[int] = set()
    labelled: list[int] = []
    computed: list[int] = []
    most = 0
    for batch in schedule.batches():
        numbers = [tile_number(plan, tile.core) for tile in batch]
        assert [plan.tile_at(n) for n in numbers] == batch == [plan.tiles[n] for n in numbers]
        computed += numbers
        here |= set(numbers)
        ready = schedule.arrived(numbers)
        most = max(most, len(here))
        for block in ready:
            read = blocks[block].read
            assert {n for n, t in enumerate(plan.tiles) if t.core.intersect(read).size} <= here
            here -= set(schedule.finish(block))
            labelled.append(block)
    assert sorted(computed) == list(range(len(plan.tiles))), "each tile once"
    assert sorted(labelled) == list(range(len(blocks)))
    assert here == set(), "nothing is kept in the end"
    assert most <= schedule.most_kept(0) + plan.batch - 1, "as many as was foretold, and those of a batch"


@settings(max_examples=30)
@given(cases(), st.data())
def test_what_is_finished_is_not_computed_again(
    case: tuple[Plan, tuple[int, ...], Margins], data: st.DataObject
) -> None:
    """And a batch that is holds the same tiles as the first time."""
    plan, core, margins = case
    blocks = Blocks(plan.shape, core, margins)
    first = Schedule(plan, blocks)
    first.begin([])
    batches = list(first.batches())
    finished = data.draw(st.sets(st.integers(0, len(blocks) - 1)))
    kept = data.draw(st.sets(st.integers(0, len(plan.tiles) - 1)))
    again = Schedule(plan, blocks)
    again.begin(finished)
    needed = {tile for block in set(range(len(blocks))) - finished for tile in again.tiles_of(block)}
    ready = again.arrived(kept)
    assert ready == [b for b in range(len(blocks)) if b not in finished and set(again.tiles_of(b)) <= kept]
    rest = list(again.batches())
    assert all(batch in batches for batch in rest)
    assert {tile_number(plan, tile.core) for batch in rest for tile in batch} >= needed - kept
    for batch in rest:
        assert {tile_number(plan, tile.core) for tile in batch} & (needed - kept)
