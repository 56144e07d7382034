"""Runs of a mask paint the mask, whatever its width beside the words of 64 voxels in which they are looked for."""

from __future__ import annotations

import numpy as np
import pytest

from cellengine.ops.runs import find_runs


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.bool_, np.float64])
@pytest.mark.parametrize("width", [1, 5, 63, 64, 65, 127, 128, 200])
def test_runs_paint_the_mask(width: int, dtype: type[np.generic]) -> None:
    rng = np.random.default_rng(width)
    for longest in (1, 5, 90):
        drawn = np.repeat(rng.integers(0, 3, 6 * width), rng.integers(1, longest, 6 * width, endpoint=True))
        image = drawn[: 6 * width].reshape(2, 3, width).astype(dtype)
        for threshold in (0, 0.5, 1.0):
            runs = find_runs(image, threshold, workers=2)
            painted = np.zeros((6, width), bool)
            for row in range(6):
                for run in range(runs.row_start[row], runs.row_start[row + 1]):
                    start, stop = runs.start[run], runs.stop[run]
                    assert start < stop
                    assert not painted[row, max(start - 1, 0) : stop].any()  # apart from the run before it
                    painted[row, start:stop] = True
            np.testing.assert_array_equal(painted.reshape(image.shape), image > threshold)
