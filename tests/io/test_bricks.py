"""Scratch files: whatever is written comes back in any box, also to a later process, and damage is seen."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cellengine.errors import ResourceError
from cellengine.geometry import Region
from cellengine.io.bricks import BrickFile
from cellengine.io.slots import SlotFile


def some_box(shape: tuple[int, ...], rng: np.random.Generator) -> Region:
    ends = np.sort([rng.choice(n + 1, 2, replace=False) for n in shape], axis=1)
    return Region(tuple(int(e[0]) for e in ends), tuple(int(e[1]) for e in ends))


@pytest.mark.parametrize("shape", [(300, 517), (40, 130, 140), (1, 7), (1, 1, 1)])
def test_any_box_of_a_brick_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 2**32, shape, np.uint32) for _ in range(3)]
    tables = [{"first": rng.integers(-5, 5, 7), "sums": rng.random((7, 4)), "none": np.zeros((0, 4))} for _ in range(3)]
    file = BrickFile(tmp_path / "scratch")
    with ThreadPoolExecutor(3) as pool:
        places = list(pool.map(file.append, arrays, tables))
    file.close()
    again = BrickFile(tmp_path / "scratch")  # as a run that goes on does
    for place, array, columns in zip(places, arrays, tables, strict=True):
        assert again.holds(place)
        for _ in range(5):
            box = some_box(shape, rng)
            np.testing.assert_array_equal(again.read(place, box), array[box.slices])
        found = again.tables(place)
        for name, values in columns.items():
            np.testing.assert_array_equal(found[name], values)
            assert found[name].dtype == values.dtype
    assert again.append(arrays[0], {}).offset == max(p.offset + p.length for p in places), "nothing is written over"
    again.close()


@pytest.mark.parametrize("shape", [(50, 70), (9, 30, 31), (1, 5)])
def test_any_box_of_a_slot(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 2**16, (2, *shape)).astype(np.uint16) for _ in range(3)]
    file = SlotFile(tmp_path / "scratch", arrays[0].nbytes)
    checksums = [file.write(slot, array) for slot, array in zip((0, 2, 1), arrays, strict=True)]
    checksums[1] = file.write(2, arrays[1] + 1)  # used again
    arrays[1] = arrays[1] + 1
    for slot, array, checksum in zip((0, 2, 1), arrays, checksums, strict=True):
        assert file.holds(slot, array.shape, checksum)
        for _ in range(5):
            box = some_box(shape, rng)
            out = np.empty((2, *box.shape), np.uint16)
            file.read(slot, Region.whole(shape), box, out)
            np.testing.assert_array_equal(out, array[(slice(None), *box.slices)])
    with pytest.raises(ValueError, match="slots of"):
        file.write(0, np.zeros((3, *shape), np.uint16))
    file.close()


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_damage_is_seen(tmp_path: Path, how: str) -> None:
    path, noise = tmp_path / "scratch", np.random.default_rng(0).integers(0, 2**16, (1, 20, 30)).astype(np.uint16)
    slots = SlotFile(path, noise.nbytes)
    checksum = slots.write(0, noise)
    bricks = BrickFile(tmp_path / "labels")
    place = bricks.append(noise[0].astype(np.uint32), {})
    for file in (path, tmp_path / "labels"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data if how == "flipped" else data[: len(data) // 2])
    assert not slots.holds(0, noise.shape, checksum)
    assert not bricks.holds(place)
    slots.close()
    bricks.close()


def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    full = tmp_path / "scratch"
    full.symlink_to("/dev/full")
    noise = np.random.default_rng(0).integers(0, 2**16, (300, 300)).astype(np.uint16)
    bricks, slots = BrickFile(full), SlotFile(full, noise.nbytes)
    with pytest.raises(ResourceError, match="disk is full"):
        bricks.append(noise, {})
    with pytest.raises(ResourceError, match="disk is full"):
        slots.write(0, noise)
    bricks.close()
    slots.close()
