"""Boxes in a CSV: ellipses inside them, and crops around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from cellengine.errors import InputError
from cellengine.io.boxes import Box, draw_ellipses, is_box_list, list_boxed, read_boxed
from cellengine.io.crops import read_crops, window


def write_boxes(folder: Path, rows: str, pictures: int = 2) -> Path:
    for i in range(pictures):
        image = np.full((40, 50), i, np.uint8)
        image[10:20, 20:30] = 200
        tifffile.imwrite(folder / f"f{i}.tif", image)
    (folder / "cells.csv").write_text(f"frame,split,label,xmin,ymin,xmax,ymax\n{rows}\n")
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
