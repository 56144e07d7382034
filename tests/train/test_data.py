"""Samples are the same whoever asks for them, and follow the picture; bad data is listed before the first step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cellengine.errors import InputError, UsageError
from cellengine.io.annotated import list_annotated
from cellengine.train.config import TrainConfig, load_config
from cellengine.train.data import PictureSamples, read_pictures
from cellengine.train.prepared import PIXELS, some_pixels
from tests.synthetic import write_annotated

TINY = ("model.widths=[8, 16]", "data.crop_px=[32, 32]", "data.balance_by=''", "data.samples_per_epoch=8", "epochs=2")


def tiny_config(folder: Path, *more: str) -> TrainConfig:
    return load_config("nuclei-unet", [*TINY, f"data.path={str(folder)!r}", *more])


def test_a_sample_depends_on_its_number_alone(tmp_path: Path) -> None:
    config = tiny_config(write_annotated(tmp_path, 4))
    pictures = read_pictures(config).train
    first, second = PictureSamples(pictures, config), PictureSamples(pictures, config)
    order = [5, 0, 3]
    for i in order:
        for a, b in zip(first[i], second[i], strict=True):
            assert torch.equal(a, b)
    again = [first[i][0] for i in (0, 3, 5)]
    assert torch.equal(again[0], second[0][0])
    assert not torch.equal(again[0], again[1])


def test_image_and_targets_change_together(tmp_path: Path) -> None:
    config = tiny_config(write_annotated(tmp_path, 4), "augment.blur_probability=0", "augment.noise_probability=0")
    samples = PictureSamples(read_pictures(config).train, config)
    for i in range(8):
        image, (foreground, _, _) = samples[i]
        inside = image[0][foreground > 0.9]
        outside = image[0][foreground < 0.1]
        if len(inside) > 20:
            assert inside.mean() > outside.mean() + 0.2


def test_split_keeps_groups_together(tmp_path: Path) -> None:
    write_annotated(tmp_path, 6)
    rows = "\n".join(f"images/cells_{i}.tif,labels/cells_{i}.tif,field{i // 2}" for i in range(6))
    (tmp_path / "list.csv").write_text(f"image,label,group\n{rows}\n")
    for seed in range(5):
        items = list_annotated(tmp_path / "list.csv", seed=seed)
        sides = {s: {i.group for i in items if i.split == s} for s in ("train", "val")}
        assert sides["train"]
        assert sides["val"]
        assert not sides["train"] & sides["val"]


def test_defects_are_listed_before_the_first_step(tmp_path: Path) -> None:
    write_annotated(tmp_path, 3)
    with pytest.raises(UsageError, match="names no data"):
        read_pictures(load_config("nuclei-unet"))
    with pytest.raises(UsageError, match="does not exist"):
        list_annotated(tmp_path / "nowhere.csv")
    (tmp_path / "list.csv").write_text(
        "image,label,split,group\nimages/cells_0.tif,labels/cells_0.tif,train,a\n"
        "images/cells_1.tif,labels/cells_1.tif,val,a\nimages/gone.tif,labels/cells_2.tif,val,b\n"
    )
    with pytest.raises(InputError, match=r"gone\.tif does not exist; the group a is in both train and val"):
        list_annotated(tmp_path / "list.csv")
    (tmp_path / "labels" / "cells_2.tif").unlink()
    with pytest.raises(InputError, match="no label picture for cells_2"):
        list_annotated(tmp_path)


def test_crops_are_centred_on_every_class_alike() -> None:
    """A nucleus of 9 px in a cell of 900 is met as often as the cell."""
    classes = np.zeros((64, 64), np.uint8)
    classes[10:40, 10:40] = 1
    classes[20:23, 20:23] = 2
    centres = some_pixels(classes)
    found = classes[tuple(centres.T)]
    assert len(centres) <= PIXELS
    assert (found == 2).sum() == 9
    assert 100 <= (found == 1).sum() <= PIXELS // 2
    assert some_pixels(np.zeros((4, 4), np.uint8)).shape == (0, 2)
