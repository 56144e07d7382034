"""Freed memory goes back to the system when it is asked to, and not at every turn of a loop."""

from __future__ import annotations

import sys

import numpy as np
import psutil
import pytest

from cellengine.ops import spare
from cellengine.ops.spare import SpareMemory, release_free_memory

PIECES, PIECE_BYTES = 2000, 100_000


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries are left alone")
def test_what_the_heap_keeps_is_given_back() -> None:
    """Pieces too small for mappings of their own, every hundredth of which stays: the heap cannot just be cut off."""
    process = psutil.Process()
    pieces = [np.ones(PIECE_BYTES, np.uint8) for _ in range(PIECES)]
    kept = pieces[::100]
    held = process.memory_info().rss
    del pieces
    release_free_memory()
    assert process.memory_info().rss < held - 0.8 * PIECES * PIECE_BYTES
    assert all(piece[0] == 1 for piece in kept)


def test_it_waits_between_two_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    monkeypatch.setattr(spare, "release_free_memory", lambda: calls.append(None))
    memory = SpareMemory()
    for _ in range(1000):
        memory.release()
    assert len(calls) <= 1
    memory._last -= SpareMemory.EVERY_S
    memory.release()
    assert len(calls) in (1, 2)
    assert calls
