"""Windows of a detector: every place is somebody's, with an object's room around it, and nothing mirrored in vain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellengine.engine.detect import plan_windows


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.integers(1, 6),
    st.integers(0, 12),
    st.sampled_from([1, 4, 16]),
)
def test_windows_cover_the_picture_with_room_around_each_core(
    shape: tuple[int, int], cores: int, halo: int, divisor: int
) -> None:
    tile = -(-(2 * halo + cores * divisor) // divisor) * divisor
    windows = plan_windows(shape, (tile, tile), (halo, halo), (divisor, divisor))
    seen = np.zeros(shape, int)
    for window in windows:
        seen[window.core.slices] += 1
        assert window.read.shape == windows[0].read.shape
        for axis, length in enumerate(shape):
            start, stop = window.read.start[axis], window.read.stop[axis]
            low, high = window.core.start[axis], window.core.stop[axis]
            assert start % divisor == 0
            assert start >= 0
            assert stop <= -(-length // divisor) * divisor
            assert low == 0 or low - start >= halo
            assert high == length or stop - high >= halo
    assert (seen == 1).all()


def test_a_small_picture_is_one_window_and_a_tile_without_core_is_refused() -> None:
    (window,) = plan_windows((50, 70), (512, 512), (100, 100), (16, 16))
    assert window.read.shape == (64, 80)
    with pytest.raises(ValueError, match="leaves no core"):
        plan_windows((500, 70), (192, 192), (100, 100), (16, 16))
