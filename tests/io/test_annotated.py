"""Lists of annotated pictures: every defect is found before a picture is decoded; splits keep groups together."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from cellengine.errors import InputError, UsageError
from cellengine.io.annotated import Item, list_annotated, read_annotated
from cellengine.io.lists import read_pairs
from cellengine.io.splits import draw_split
from tests.synthetic import write_annotated

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


@st.composite
def grouped_items(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    groups = draw(st.lists(st.sampled_from("abcdefghijkl"), min_size=12, max_size=60))
    groups += list("abc")
    return groups, [draw(st.sampled_from(["live", "dead"])) for _ in groups]


@given(grouped_items(), st.integers(0, 99))
@settings(max_examples=30)
def test_a_group_is_in_one_split_and_no_split_is_empty(items: tuple[list[str], list[str]], seed: int) -> None:
    groups, classes = items
    splits = draw_split(groups, SHARES, seed, classes)
    assert splits == draw_split(groups, SHARES, seed, classes)
    assert set(splits) == set(SHARES)
    for group in set(groups):
        assert len({s for s, g in zip(splits, groups, strict=True) if g == group}) == 1


def test_shares_and_classes_are_held_where_groups_are_single_items() -> None:
    groups = [f"{i:03}" for i in range(200)]
    classes = ["live"] * 150 + ["dead"] * 50
    found = Counter(zip(draw_split(groups, SHARES, 3, classes), classes, strict=True))
    for split, share in SHARES.items():
        assert abs(found[split, "live"] - 150 * share) <= 1
        assert abs(found[split, "dead"] - 50 * share) <= 1
    assert draw_split(groups, SHARES, 3) != draw_split(groups, SHARES, 4)


def test_too_few_groups_for_the_splits() -> None:
    with pytest.raises(InputError, match="Found 2 groups of pictures; at least 3 are needed"):
        draw_split(["a", "b", "a"], SHARES, 1)


def write_list(folder: Path, *rows: str, columns: str = "image,label,split") -> Path:
    path = folder / "list.csv"
    path.write_text("\n".join([columns, *rows]) + "\n")
    return path


GOOD = "images/cells_0.tif,labels/cells_0.tif,train"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("images/cells_1.tif,labels/gone.tif,val", r"gone\.tif does not exist"),
        ("images/cells_1.tif,,val", r"cells_1\.tif has no label image"),
        (",labels/cells_1.tif,val", "row 2 names no picture"),
        ("images/cells_1.tif,labels/small.tif,val", r"small\.tif: the labels are \(10, 64\), the picture cells_1\.tif"),
        ("images/cells_1.tif,labels/float.tif,val", r"float\.tif: labels of type float32; expected whole numbers"),
        ("images/cells_1.tif,labels/cut.tif,val", r"cut\.tif: the file ends after 200 bytes"),
        ("images/cells_0.tif,labels/cells_1.tif,val", r"the group .*cells_0\.tif is in both train and val"),
        (
            "images/copy.tif,labels/cells_1.tif,val",
            r"cells_0\.tif \(train\) and copy\.tif \(val\) are the same picture",
        ),
        ("images/cells_1.tif,labels/cells_1.tif,train", "no picture has the split val"),
    ],
)
def test_every_defect_is_named(tmp_path: Path, row: str, message: str) -> None:
    write_annotated(tmp_path, 2)
    labels = tmp_path / "labels"
    shutil.copy(tmp_path / "images" / "cells_0.tif", tmp_path / "images" / "copy.tif")
    tifffile.imwrite(labels / "small.tif", np.zeros((10, 64), np.uint16))
    tifffile.imwrite(labels / "float.tif", np.zeros((64, 64), np.float32))
    (labels / "cut.tif").write_bytes((labels / "cells_1.tif").read_bytes()[:200])
    with pytest.raises(InputError, match=message):
        list_annotated(write_list(tmp_path, GOOD, row))


def test_defects_are_counted_together(tmp_path: Path) -> None:
    write_annotated(tmp_path, 8)
    rows = [f"images/cells_{i}.tif,labels/gone_{i}.tif,val" for i in range(1, 8)]
    with pytest.raises(InputError, match=r"gone_5\.tif does not exist; and 2 more\.$"):
        list_annotated(write_list(tmp_path, GOOD, *rows))


def test_volumes_in_one_file_with_axes_from_the_list(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["raw"] = random.integers(0, 99, (3, 4, 5), np.uint16)
            file["label"] = random.integers(0, 9, (3, 4, 5), np.uint8)
    path = write_list(
        tmp_path, "a.h5:/raw,a.h5:/label,train,ZYX", "b.h5:/raw,b.h5:/label,val,ZYX", columns="image,mask,split,axes"
    )
    picture = read_annotated(list_annotated(path)[1])
    with h5py.File(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(picture.image[0], file["raw"][:])
        np.testing.assert_array_equal(picture.labels, file["label"][:])


def labelled(folder: Path, labels: np.ndarray) -> Item:
    tifffile.imwrite(folder / "image.tif", np.zeros(labels.shape, np.uint8))
    tifffile.imwrite(folder / "label.tif", labels)
    return Item(folder / "image.tif", folder / "label.tif", "train", "a", "")


def test_negative_labels_are_refused_but_for_a_value_that_means_no_cell(tmp_path: Path) -> None:
    labels = np.arange(100, dtype=np.int16).reshape(10, 10)
    labels[2, 3] = -1
    item = labelled(tmp_path, labels)
    with pytest.raises(
        InputError, match=r"label\.tif: the labels hold -1; expected whole numbers from 0, one a cell\.$"
    ):
        read_annotated(item)
    np.testing.assert_array_equal(read_annotated(item, keep=[-1]).labels, labels)
    labels[0, 0] = -7
    with pytest.raises(InputError, match="the labels hold -7"):
        read_annotated(labelled(tmp_path, labels), keep=[-1])


@pytest.mark.parametrize("kind", [np.uint32, np.uint64, np.int32, np.int64])
def test_labels_that_are_large_for_the_picture_become_dense(tmp_path: Path, kind: type) -> None:
    ids = np.random.default_rng(0).integers(2**30, 2**31 - 1, 20).astype(kind)
    ids[0], unknown = 7, 2**31 - 1
    numbers = np.random.default_rng(1).integers(0, 22, (30, 40))
    labels = np.array([0, *ids.tolist(), unknown], kind)[numbers]
    found = read_annotated(labelled(tmp_path, labels), keep=[unknown]).labels
    assert found.dtype == kind
    np.testing.assert_array_equal(found == 0, labels == 0)
    np.testing.assert_array_equal(found == unknown, labels == unknown)
    pairs = np.unique(np.stack([found, labels]).reshape(2, -1), axis=1)
    assert pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == 22
    assert pairs[0].tolist()[:-1] == list(range(21))


def test_labels_that_are_small_enough_stay_as_they_are(tmp_path: Path) -> None:
    labels = np.array([[0, 3], [65535, 255]], np.uint16)
    np.testing.assert_array_equal(read_annotated(labelled(tmp_path, labels)).labels, labels)


def test_a_list_that_lacks_what_is_asked_for(tmp_path: Path) -> None:
    write_annotated(tmp_path, 2)
    path = write_list(tmp_path, GOOD)
    with pytest.raises(UsageError, match="no column 'kind'; found image, label, split"):
        list_annotated(path, kind_column="kind")
    with pytest.raises(UsageError, match=r"No row of .* has split=test; found split: train"):
        read_pairs(path, {"split": "test"})
    assert len(read_pairs(path, {"split": ("train", "val")})) == len(read_pairs(path))
    with pytest.raises(UsageError, match=r"has split=test or val; found split: train"):
        read_pairs(path, {"split": ["test", "val"]})
    with pytest.raises(InputError, match="no column names the true label images; expected label or mask, found image"):
        read_pairs(write_list(tmp_path, "a.tif", columns="image"))
    with pytest.raises(InputError, match="the list has no rows"):
        read_pairs(write_list(tmp_path))


def test_large_groups_are_validated_on_too_but_not_those_that_would_fill_the_split() -> None:
    groups = ["huge"] * 100 + [f"field{i}" for i in range(20) for _ in range(8)] + [f"single{i}" for i in range(40)]
    drawn = set()
    for seed in range(6):
        splits = draw_split(groups, {"train": 0.8, "val": 0.2}, seed)
        validated = {group for group, split in zip(groups, splits, strict=True) if split == "val"}
        assert "huge" not in validated
        assert abs(splits.count("val") - 0.2 * len(groups)) <= 8
        drawn |= validated
    assert len([name for name in drawn if name.startswith("field")]) > 6
