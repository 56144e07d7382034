"""Boxes in a CSV: ellipses inside them, and crops around them."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from cellengine.errors import InputError
from cellengine.io.boxes import Box, draw_ellipses, is_box_list, list_boxed, read_boxed
from cellengine.io.crops import read_crops, window
from cellengine.io.splits import join_copies, tell_apart

COLUMNS = "frame,split,label,xmin,ymin,xmax,ymax"


def write_boxes(folder: Path, rows: str, pictures: int = 2, columns: str = COLUMNS) -> Path:
    for i in range(pictures):
        image = np.full((40, 50), i, np.uint8)
        image[10:20, 20:30] = 200
        tifffile.imwrite(folder / f"f{i}.tif", image)
    (folder / "cells.csv").write_text(f"{columns}\n{rows}\n")
    return folder / "cells.csv"


ROWS = "f0.tif,train,live,20,10,30,20\nf0.tif,train,dead,0,0,6,4\nf1.tif,val,live,20,10,30,20"


def test_ellipses_fill_their_boxes() -> None:
    labels = draw_ellipses((40, 50), [Box(10, 20, 20, 30), Box(0, 0, 4, 6), Box(35, 45, 60, 70)])
    inside = labels == 1
    assert inside[10:20, 20:30].sum() == inside.sum()
    assert abs(inside.sum() - np.pi * 25) < 6
    assert all(edge.any() for edge in (inside[10], inside[19], inside[:, 20], inside[:, 29]))
    assert (labels == 2).sum() > 10
    assert set(np.unique(labels)) <= {0, 1, 2, 3}


def test_where_cells_meet_each_keeps_its_side() -> None:
    labels = draw_ellipses((20, 40), [Box(0, 0, 20, 24), Box(0, 16, 20, 40)])
    assert labels[10, [12, 27]].tolist() == [1, 2]
    left, right = np.flatnonzero(labels[10] == 1), np.flatnonzero(labels[10] == 2)
    assert left.max() < right.min()


def test_a_list_of_boxes_gives_pictures_with_labels(tmp_path: Path) -> None:
    path = write_boxes(tmp_path, ROWS)
    assert is_box_list(path)
    first, second = list_boxed(path)
    assert (first.item.split, second.item.split) == ("train", "val")
    picture = read_boxed(first)
    assert picture.image.shape == (1, 40, 50)
    assert picture.labels.max() == 2


def test_crops_are_cut_around_boxes_and_reflected_at_the_border(tmp_path: Path) -> None:
    crops = read_crops(write_boxes(tmp_path, ROWS), ("live", "dead"), (16, 12))
    assert [(c.label, c.split, c.image.shape) for c in crops] == [
        (0, "train", (1, 16, 12)),
        (1, "train", (1, 16, 12)),
        (0, "val", (1, 16, 12)),
    ]
    assert (crops[0].image[0, 3:13, 1:11] == 200).all()
    image = np.arange(20, dtype=np.float32).reshape(1, 4, 5)
    padded = np.pad(image[0], 3, mode="reflect")
    np.testing.assert_array_equal(window(image, (0, 0), (6, 6))[0], padded[0:6, 0:6])


UNSPLIT = "\n".join(f"f{i}.tif,live,20,10,30,20" for i in range(8))


def test_the_split_of_crops_is_drawn_as_asked(tmp_path: Path) -> None:
    path = write_boxes(tmp_path, UNSPLIT, 8, columns="frame,label,xmin,ymin,xmax,ymax")
    drawn = {}
    for share in (0.25, 0.5):
        for seed in range(4):
            crops = read_crops(path, ("live", "dead"), (16, 12), validation_share=share, seed=seed)
            drawn[share, seed] = tuple(crop.split for crop in crops)
            assert drawn[share, seed].count("val") == 8 * share
    assert len(set(drawn.values())) > 3
    assert [crop.group for crop in crops] == [f"f{i}.tif" for i in range(8)]


def test_a_copy_of_a_picture_in_another_split_is_named(tmp_path: Path) -> None:
    path = write_boxes(tmp_path, ROWS)
    shutil.copy(tmp_path / "f0.tif", tmp_path / "f1.tif")
    for read in (list_boxed, partial(read_crops, classes=("live", "dead"), size_px=(16, 12))):
        with pytest.raises(InputError, match=r"f0\.tif \(train\) and f1\.tif \(val\) are the same picture"):
            read(path)


def test_a_drawn_split_keeps_copies_together(tmp_path: Path) -> None:
    path = write_boxes(tmp_path, UNSPLIT, 8, columns="frame,label,xmin,ymin,xmax,ymax")
    shutil.copy(tmp_path / "f0.tif", tmp_path / "f5.tif")
    for seed in range(8):
        listed = list_boxed(path, validation_share=0.4, seed=seed)
        assert listed[0].item.split == listed[5].item.split
        assert listed[0].item.group == listed[5].item.group != listed[1].item.group


def test_files_are_told_apart_by_all_their_bytes(tmp_path: Path) -> None:
    """Same size, same beginning, another end: only a comparison of the whole tells."""
    contents = [b"a" * 100_000 + end for end in (b"x", b"y", b"x", b"xx")] + [b"b" * 100_001]
    paths = [tmp_path / str(i) for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    keys = tell_apart([*paths, tmp_path])
    assert [keys.index(key) for key in keys] == [0, 1, 0, 3, 4, 5]


@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(0, 9)), min_size=1, max_size=30))
def test_joined_groups_share_nothing(entries: list[tuple[str, int]]) -> None:
    groups, contents = zip(*entries, strict=True)
    joined = join_copies(groups, contents)
    for parts in (groups, contents):
        assert len(set(zip(parts, joined, strict=True))) == len(set(parts)), "each is in one group alone"
    if len(set(zip(groups, contents, strict=True))) == len(set(contents)):
        assert joined == list(groups), "without copies across groups they stay what they are"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("f0.tif,train,live,20,10,20,20\nf1.tif,val,live,1,1,5,5", "line 2: the box 20, 10, 20, 20 is empty"),
        ("f0.tif,train,live,a,10,20,20\nf1.tif,val,live,1,1,5,5", "line 2: the sides of a box are numbers"),
        ("f9.tif,train,live,1,1,5,5\nf1.tif,val,live,1,1,5,5", r"f9\.tif does not exist"),
        ("f0.tif,train,live,1,1,5,5\nf0.tif,val,live,1,1,5,5", r"f0\.tif is in two splits"),
        ("f0.tif,train,live,1,1,5,5\nf1.tif,train,live,1,1,5,5", "nothing has the split val"),
    ],
)
def test_bad_lists_say_what_is_wrong(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list_boxed(write_boxes(tmp_path, rows))
