"""Scratch arrays: whatever is written in parts comes back in any box, and nothing stays on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cellengine.errors import ResourceError
from cellengine.geometry import Region, plan_tiles
from cellengine.io.bricks import BrickFile, GridFile


@pytest.mark.parametrize("shape", [(300, 517), (40, 130, 140), (1, 7), (1, 1, 1)])
def test_any_box_of_a_brick_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 2**32, shape, np.uint32) for _ in range(3)]
    with BrickFile(tmp_path / "scratch", np.uint32) as file:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(file.write, range(3), arrays))
        for key, array in enumerate(arrays):
            for _ in range(5):
                ends = np.sort([rng.integers(0, n + 1, 2) for n in shape], axis=1)
                box = Region(tuple(int(e[0]) for e in ends), tuple(int(e[1]) for e in ends))
                np.testing.assert_array_equal(file.read(key, box), array[box.slices])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("shape", "step"), [((50, 70), (16, 32)), ((9, 30, 31), (4, 8, 40)), ((1, 5), (8, 8))])
def test_any_box_of_a_grid_file(tmp_path: Path, shape: tuple[int, ...], step: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 2**16, (2, *shape)).astype(np.uint16)
    with GridFile(tmp_path / "scratch", 2, shape, step) as file:
        assert not file.read(Region.whole(shape)).any()
        for tile in plan_tiles(shape, step, (0,) * len(shape), (1,) * len(shape)):
            file.write(tile.core, image[(slice(None), *tile.core.slices)])
        for _ in range(10):
            ends = np.sort([rng.choice(n + 1, 2, replace=False) for n in shape], axis=1)
            box = Region(tuple(int(e[0]) for e in ends), tuple(int(e[1]) for e in ends))
            np.testing.assert_array_equal(file.read(box), image[(slice(None), *box.slices)])
        with pytest.raises(ValueError, match="expected a cell of the grid"):
            file.write(Region.whole(shape), image[:1])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    full = tmp_path / "scratch"
    full.symlink_to("/dev/full")  # what close() removes is the link
    noise = np.random.default_rng(0).integers(0, 2**32, (300, 300), np.uint32)
    with BrickFile(full, np.uint32) as file, pytest.raises(ResourceError, match="disk is full"):
        file.write(0, noise)
    assert not full.is_symlink()
