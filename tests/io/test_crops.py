"""Crops with a class, in each of the forms they come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellengine.errors import InputError, UsageError
from cellengine.io import write_png
from cellengine.io.crops import read_crops

CLASSES = ("live", "dead")


def write_arrays(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_arrays_with_numbers_or_names(tmp_path: Path) -> None:
    images = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)
    split = np.array(["train", "val", "train", "train"])
    numbers = write_arrays(tmp_path / "a.npz", image=images, dead=np.array([0, 1, 1, 0]), split=split)
    names = write_arrays(
        tmp_path / "b.npz", image=images, label=np.array(["live", "dead", "dead", "live"]), split=split
    )
    for crops in (read_crops(numbers, CLASSES, (4, 4), label="dead"), read_crops(names, CLASSES, (4, 4))):
        assert [c.label for c in crops] == [0, 1, 1, 0]
        assert [c.split for c in crops] == split.tolist()
        np.testing.assert_array_equal(crops[2].image, images[2][None])


def test_a_folder_per_class_and_its_drawn_split(tmp_path: Path) -> None:
    for name, count in (("live", 12), ("dead", 8)):
        (tmp_path / name).mkdir()
        for i in range(count):
            write_png(tmp_path / name / f"{i}.png", np.full((7, 9), 20 * count + i, np.uint8))
    crops = read_crops(tmp_path, CLASSES, (4, 4), validation_share=0.25)
    held = [c.label for c in crops if c.split == "val"]
    assert (held.count(0), held.count(1)) == (3, 2)
    assert len(crops) == 20


def test_a_list_of_crops(tmp_path: Path) -> None:
    for i in range(3):
        write_png(tmp_path / f"{i}.png", np.full((7, 9), i, np.uint8))
    (tmp_path / "list.csv").write_text("file,label,split\n0.png,live,train\n1.png,dead,train\n2.png,dead,val\n")
    crops = read_crops(tmp_path / "list.csv", CLASSES, (4, 4))
    assert [(c.name, c.label, c.split) for c in crops] == [
        ("0.png", 0, "train"),
        ("1.png", 1, "train"),
        ("2.png", 1, "val"),
    ]


def write_pictures(folder: Path, **values: int) -> None:
    """Flat pictures `name.png`, the same bytes for the same value."""
    for name, value in values.items():
        write_png(folder / f"{name}.png", np.full((7, 9), value, np.uint8))


def test_the_same_crop_in_two_splits_is_named(tmp_path: Path) -> None:
    images = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)
    images[3] = images[1]
    split = np.array(["train", "val", "train", "train"])
    arrays = write_arrays(tmp_path / "a.npz", image=images, label=np.array(["live"] * 4), split=split)
    with pytest.raises(InputError, match=r"a\.npz:1 \(val\) and a\.npz:3 \(train\) are the same picture; leave"):
        read_crops(arrays, CLASSES, (4, 4))
    write_pictures(tmp_path, a=1, b=2, c=1, d=2)
    rows = "a.png,live,train\nb.png,dead,train\nc.png,live,val\nd.png,live,val"
    (tmp_path / "list.csv").write_text(f"file,label,split\n{rows}\n")
    with pytest.raises(InputError, match=r"a\.png \(train\) and c\.png \(val\) are the same picture; and 1 more"):
        read_crops(tmp_path / "list.csv", CLASSES, (4, 4))
    for name, value in (("train/live", 1), ("train/dead", 2), ("val/live", 1)):
        (tmp_path / "folder" / name).mkdir(parents=True)
        write_pictures(tmp_path / "folder" / name, x=value)
    with pytest.raises(InputError, match=r"live/x\.png \(train\) and live/x\.png \(val\) are the same picture"):
        read_crops(tmp_path / "folder", CLASSES, (4, 4))


def test_a_drawn_split_keeps_copies_and_their_groups_together(tmp_path: Path) -> None:
    """Crops 0 and 1, of two fields, are copies; and so all crops of the two fields go together."""
    images = np.arange(12 * 6 * 5, dtype=np.uint16).reshape(12, 6, 5)
    images[1] = images[0]
    group = np.array([f"field{i % 6}" for i in range(12)])
    path = write_arrays(tmp_path / "a.npz", image=images, label=np.array(["live"] * 12), group=group)
    validated = set()
    for seed in range(12):
        crops = read_crops(path, CLASSES, (4, 4), validation_share=0.4, seed=seed)
        assert len({crops[i].split for i in (0, 1, 6, 7)}) == 1
        assert crops[0].group == crops[7].group != crops[2].group
        validated |= {i for i, crop in enumerate(crops) if crop.split == "val"}
    assert validated == set(range(12))


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    images, split = np.zeros((2, 6, 5), np.uint8), np.array(["train", "val"])
    with pytest.raises(InputError, match="no array 'label'; found image, split"):
        read_crops(write_arrays(tmp_path / "a.npz", image=images, split=split), CLASSES, (4, 4))
    with pytest.raises(InputError, match="classes up to 2; the model has 2"):
        read_crops(write_arrays(tmp_path / "b.npz", image=images, label=np.array([0, 2])), CLASSES, (4, 4))
    with pytest.raises(InputError, match="found the classes ghost; the model has live, dead"):
        read_crops(write_arrays(tmp_path / "c.npz", image=images, label=np.array(["live", "ghost"])), CLASSES, (4, 4))
    (tmp_path / "d.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"cannot be read as an \.npz"):
        read_crops(tmp_path / "d.npz", CLASSES, (4, 4))
    with pytest.raises(UsageError, match="does not exist"):
        read_crops(tmp_path / "none", CLASSES, (4, 4))
