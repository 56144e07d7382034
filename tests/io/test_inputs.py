"""Which files a command line means, and the names of their outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellengine.errors import UsageError
from cellengine.io import find_inputs, output_stems


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    images = ("b.tif", "a.png", "deep/er/c.ome.tiff", "deep/b.TIF")
    for name in (*images, "notes.txt", ".hidden.tif", "a.labels.tif", "a.overlay.png", ".cache/x.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("v.ome.zarr", "plain.zarr", "old.labels.ome.zarr"):
        (tmp_path / name / "0").mkdir(parents=True)
        (tmp_path / name / "zarr.json").touch()
        (tmp_path / name / "0" / "inside.tif").touch()
    return tmp_path


def names(paths: list[str]) -> list[str]:
    return [file.relative.as_posix() for file in find_inputs(paths)]


def test_a_folder_is_searched_to_the_bottom_without_hidden_files_and_own_outputs(tree: Path) -> None:
    expected = ["a.png", "b.tif", "deep/b.TIF", "deep/er/c.ome.tiff", "plain.zarr", "v.ome.zarr"]
    assert names([str(tree)]) == expected


def test_patterns_keep_the_folders_below_their_fixed_part(tree: Path) -> None:
    assert names([f"{tree}/*.tif"]) == ["b.tif"]
    assert names([f"{tree}/**/*.ome.tiff"]) == ["deep/er/c.ome.tiff"]
    assert names([f"{tree}/*.zarr"]) == ["plain.zarr", "v.ome.zarr"]
    assert names([f"{tree}/**/*.tif"]) == ["b.tif"]


def test_files_come_in_the_order_given_and_once(tree: Path) -> None:
    assert names([str(tree / "b.tif"), str(tree / "a.png"), f"{tree}/*.tif"]) == ["b.tif", "a.png"]
    assert names([str(tree / "v.ome.zarr")]) == ["v.ome.zarr"]
    assert names([str(tree / "a.labels.tif")]) == ["a.labels.tif"]


def test_a_link_keeps_its_own_name(tree: Path) -> None:
    (tree / "link.tif").symlink_to(tree / "b.tif")
    assert names([str(tree / "link.tif")]) == ["link.tif"]


def test_what_is_not_there_is_a_usage_error(tree: Path) -> None:
    (tree / "empty").mkdir()
    for argument, message in [
        (str(tree / "none.tif"), "no such file"),
        (str(tree / "empty"), "no images here"),
        (f"{tree}/*.czi", "no images here"),
        (f"{tree}/a**.tif", "pattern"),
        ("", "empty"),
    ]:
        with pytest.raises(UsageError, match=message):
            find_inputs([argument])


def test_stems_are_all_different(tmp_path: Path) -> None:
    for name in ("1/a.tif", "2/a.tif", "x/s.tif", "x/s.png", "x/t.ome.tif", "x/u.v.png", "x/.ome.tif.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def stems(*arguments: str) -> list[str]:
        return [stem.as_posix() for stem in output_stems(find_inputs([str(tmp_path / a) for a in arguments]))]

    assert stems("x/t.ome.tif", "x/u.v.png") == ["t", "u.v"]
    assert stems("x/s.tif", "x/s.png", "x/t.ome.tif") == ["s.tif", "s.png", "t"]
    assert stems("1/a.tif", "2/a.tif", "x/s.png") == ["1/a.tif", "2/a.tif", "s"]
    assert stems("x") == ["s.png", "s.tif", "t", "u.v"]
