"""What `prepare` writes, the presets take as it is: prepared, then trained for a moment with no setting of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

pytest.importorskip("torch")

from cellengine.models.checkpoint import load_checkpoint
from cellengine.train.config import load_config
from cellengine.train.data import list_pictures, read_pictures
from cellengine.train.loop import train
from cellengine.train.prepare.cellspotting import prepare_cellspotting
from cellengine.train.prepare.crops import CropOptions, prepare_crops
from cellengine.train.prepare.dsb2018 import Dsb2018Options, prepare_dsb2018
from cellengine.train.prepare.pictures import SplitOptions
from cellengine.train.prepare.volumes import VolumeOptions, prepare_volumes
from cellengine.train.prepare.wbc import WbcOptions, prepare_wbc
from tests.synthetic import draw_cells
from tests.train.prepare.helpers import write_kaggle
from tests.train.prepare.test_cellspotting import OPTIONS as CLICKS
from tests.train.prepare.test_cellspotting import write_study
from tests.train.prepare.test_crops import BOXES, write_frames, write_table
from tests.train.prepare.test_volumes import make_volume, write_hdf5
from tests.train.prepare.test_wbc import write_pair
from tests.train.test_recipes import SHORT

SMALL = ("data.crop_px=[16, 16]", "model.widths=[4, 6]", "tile=[64, 64]")
SMALL_VOLUMES = ("data.crop_px=[8, 16, 16]", "model.widths=[4, 6]", "tile=[16, 32, 32]")
SMALL_RESNET = ("data.crop_px=[16, 16]", "model.width=8")
SMALL_VGG = ("data.crop_px=[16, 16]", "model.widths=[4, 6]", "model.convolutions=[1, 1]", "model.hidden=[6]")


def runs(preset: str, path: Path, folder: Path, sizes: Sequence[str]) -> None:
    """Train with nothing but the path and sizes that a test can wait for; it ends with weights that were scored."""
    config = load_config(preset, [*SHORT, f"data.path={str(path)!r}", *sizes])
    assert np.isfinite(load_checkpoint(train(config, folder, device="cpu"))["score"])


def test_nuclei(tmp_path: Path) -> None:
    for i in range(4):
        write_kaggle(tmp_path / "in", f"picture{i}", *draw_cells((48, 48), 4, seed=i))
    prepare_dsb2018(tmp_path / "in", tmp_path / "out", Dsb2018Options(SplitOptions(0.3)))
    runs("nuclei-unet", tmp_path / "out" / "list.csv", tmp_path / "run", SMALL)


def test_white_blood_cells(tmp_path: Path) -> None:
    for i in range(4):
        write_pair(tmp_path / "in", f"{i:03}", i)
    prepare_wbc(tmp_path / "in", tmp_path / "out", WbcOptions(SplitOptions(0.3)))
    listed = tmp_path / "out" / "list.csv"
    for preset in ("wbc-fcn1", "wbc-fcn2", "wbc-fcn3", "wbc-fcn8s", "wbc-unet"):
        assert len(read_pictures(load_config(preset, [f"data.path={str(listed)!r}"])).train) == 3
    runs("wbc-unet", listed, tmp_path / "run", SMALL)


def test_volumes(tmp_path: Path) -> None:
    for i in range(2):
        write_hdf5(tmp_path / "in" / f"{i}.h5", *make_volume(i, (10, 20, 22)))
    options = VolumeOptions(SplitOptions(0.5), axes="ZYX", pad_to=(0, 0, 0), boundary_px=2)
    prepare_volumes(tmp_path / "in", tmp_path / "out", options)
    listed = tmp_path / "out" / "list.csv"
    for preset in ("cells3d", "cells3d-mini", "cells3d-unet", "nuclei3d", "tissue3d-boundary"):
        found = list_pictures(load_config(preset, [f"data.path={str(listed)!r}"]))
        assert [len(items) for items in found.values()] == [1, 1]
    runs("cells3d-mini", listed, tmp_path / "run", SMALL_VOLUMES)


def test_crops_of_boxes(tmp_path: Path) -> None:
    write_frames(tmp_path)
    rows = [f"f{i}.png,{'val' if i == 3 else 'train'},{kind},{x},{y},{x + 9},{y + 8}"
            for i in range(4) for kind, x, y in (("live", 20, 10), ("dead", 30, 20))]  # fmt: skip
    prepare_crops(write_table(tmp_path / "cells.csv", BOXES, *rows), tmp_path / "out", CropOptions(sizes_px=(16,)))
    runs("livedead-vgg", tmp_path / "out" / "list_16.csv", tmp_path / "run", SMALL_VGG)


def test_crops_of_clicks(tmp_path: Path) -> None:
    write_study(tmp_path, 4)
    prepare_cellspotting(tmp_path / "clicks.json", tmp_path / "pictures", tmp_path / "out", CLICKS)
    runs("livedead-resnet", tmp_path / "out" / "list_40.csv", tmp_path / "run", SMALL_RESNET)


def test_crops_of_three_classes(tmp_path: Path) -> None:
    """As docs/live-dead.md says: the names of the classes, and their number in the network."""
    for split in ("train", "val"):
        for number, kind in enumerate(("live", "dead", "dying")):
            (tmp_path / "in" / split / kind).mkdir(parents=True)
            image = np.random.default_rng((number, split == "val")).integers(0, 255, (16, 16), np.uint8)
            iio.imwrite(tmp_path / "in" / split / kind / f"{split}.png", image)
    classes = ('classes=["live","dead","dying"]', "model.classes=3")
    runs("livedead-resnet", tmp_path / "in", tmp_path / "run", (*SMALL_RESNET, *classes))
