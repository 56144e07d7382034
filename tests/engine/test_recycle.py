"""Memory comes back when the last view is gone, and never before."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cellengine.engine.recycle import Recycler


def place(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_used_again_once_nobody_holds_it() -> None:
    recycler = Recycler(2)
    first = recycler.empty((2, 3, 40))
    where = place(first)
    assert (first.shape, first.dtype, first.flags.c_contiguous) == ((2, 3, 40), np.float32, True)
    view = first[1, :, 3:]
    del first
    gc.collect()
    other = recycler.empty((6, 40))
    assert place(other) != where, "a view still shows it"
    del view
    gc.collect()
    assert place(recycler.empty((240,))) == where


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.booleans()), max_size=30))
def test_arrays_in_hand_never_share_memory(steps: list[tuple[int, int, bool]]) -> None:
    recycler = Recycler(3)
    held: dict[int, np.ndarray] = {}
    for number, (slot, size, as_view) in enumerate(steps):
        array = recycler.empty((size, 100))
        array[:] = number
        held[slot] = array[::2, 1:] if as_view else array
        kept = list(held.values())
        assert all((a == a.flat[0]).all() for a in kept)
        assert len({float(a.flat[0]) for a in kept}) == len(kept)


def test_any_thread_may() -> None:
    recycler = Recycler(3)

    def work(seed: int) -> bool:
        fine = True
        for i in range(200):
            array = recycler.empty((50 + i % 2,))
            array[:] = 1000 * seed + i
            fine = fine and bool((array == 1000 * seed + i).all())
        return fine

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
