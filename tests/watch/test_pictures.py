"""What a folder gives to the watcher: each picture under one name, whatever links and strange entries lie about."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellengine.watch.pictures import Folder, state_of


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "in" / "plate" / "well").mkdir(parents=True)
    for name in ("a.tif", "plate/b.tif", "plate/well/c.png", "plate/notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"x")
    return Folder(tmp_path / "in", tmp_path / "in" / "results")


HERE = ["a.tif", "plate/b.tif", "plate/well/c.png"]


def found(folder: Folder) -> list[str]:
    return sorted(folder.walk())


def test_pictures_to_the_bottom(folder: Folder) -> None:
    assert found(folder) == HERE


def test_links_back_give_no_second_name(folder: Folder, tmp_path: Path) -> None:
    (folder.base / "plate" / "up").symlink_to(folder.base)
    (folder.base / "plate" / "here").symlink_to(".")
    (folder.base / "again").symlink_to(folder.base / "plate" / "well")
    (folder.base / "all").symlink_to(tmp_path)
    assert found(folder) == HERE
    for name in ("plate/up/a.tif", "again/c.png", "all/in/a.tif"):
        assert list(folder.pictures_at(folder.base / name)) == []


def test_a_linked_folder_counts_but_links_in_it_do_not(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "camera").mkdir()
    (tmp_path / "camera" / "d.tif").write_bytes(b"x")
    (tmp_path / "camera" / "loop").symlink_to(tmp_path / "camera")
    (folder.base / "camera").symlink_to(tmp_path / "camera")
    assert found(folder) == sorted([*HERE, "camera/d.tif"])
    assert list(folder.pictures_at(folder.base / "camera" / "d.tif")) == ["camera/d.tif"]
    assert list(folder.pictures_at(folder.base / "camera" / "loop" / "d.tif")) == []


def test_links_to_nothing_and_to_themselves_do_not_spoil_the_rest(folder: Folder) -> None:
    (folder.base / "0.tif").symlink_to("0.tif")
    (folder.base / "0").symlink_to("0")
    (folder.base / "1.tif").symlink_to("gone.tif")
    names = found(folder)
    assert set(HERE) <= set(names)
    assert [name for name in names if state_of(folder.base / name) is not None] == HERE


def test_a_folder_that_is_moved_here_brings_its_pictures(folder: Folder) -> None:
    assert sorted(folder.pictures_at(folder.base / "plate")) == ["plate/b.tif", "plate/well/c.png"]
    assert list(folder.pictures_at(folder.base / "plate" / "notes.txt")) == []
    assert list(folder.pictures_at(folder.base / ".hidden" / "a.tif")) == []
    assert list(folder.pictures_at(folder.output / "a.tif")) == []
    assert list(folder.pictures_at(Path("/elsewhere/a.tif"))) == []


def test_a_change_in_a_zarr_folder_is_one_of_the_picture(folder: Folder) -> None:
    (folder.base / "s.ome.zarr" / "0").mkdir(parents=True)
    (folder.base / "s.ome.zarr" / "0" / "c.tif").write_bytes(b"x")
    assert list(folder.pictures_at(folder.base / "s.ome.zarr" / "0" / "c.tif")) == ["s.ome.zarr"]
    assert found(folder) == sorted([*HERE, "s.ome.zarr"])
