"""Boxes in which images are read and written: whole chunks, each once, in raster order."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cellengine.geometry import Cells


@settings(max_examples=30)
@given(st.data())
def test_no_chunk_is_written_twice(data: st.DataObject) -> None:
    ndim = data.draw(st.integers(2, 4))
    shape = tuple(data.draw(st.integers(1, 12)) for _ in range(ndim))
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    voxels = data.draw(st.integers(1, 500))
    seen = np.zeros(shape, int)
    starts = []
    for region in Cells.of_chunks(shape, chunks, voxels):
        seen[region.slices] += 1
        starts.append(region.start)
        assert region.size <= max(voxels, prod(chunks))
        for a, b, c, n in zip(region.start, region.stop, chunks, shape, strict=True):
            assert a % c == 0
            assert b % c == 0 or b == n
    assert (seen == 1).all()
    assert starts == sorted(starts)


def test_as_much_at_once_as_the_memory_allows() -> None:
    assert len(Cells.of_chunks((64, 512, 512), (16, 128, 128), 64 * 512 * 512)) == 1
    assert len(Cells.of_chunks((64, 512, 512), (16, 128, 128), 16 * 512 * 512)) == 4
    assert len(Cells.of_chunks((1, 4000, 4000), (1, 64, 4000), 640 * 4000)) == 7
