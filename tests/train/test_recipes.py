"""Every task through the one loop, on tiny synthetic data: it trains, validates with the production decoder, saves."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

torch = pytest.importorskip("torch")

from cellengine.errors import InputError, UsageError
from cellengine.io import write_png
from cellengine.models import build, read_config
from cellengine.models.checkpoint import load_checkpoint
from cellengine.spec import ModelSpec
from cellengine.train.config import TrainConfig, load_config
from cellengine.train.data import read_pictures
from cellengine.train.loop import train
from cellengine.train.recipes import RECIPES
from tests.synthetic import draw_cells

SHORT = (
    "epochs=1",
    "batch=2",
    "validate_every=1",
    "preview_every=1",
    "precision=fp32",
    "data.workers=0",
    "data.samples_per_epoch=4",
    "optimizer.warmup_steps=0",
)


def run(preset: str, data: Path, folder: Path, *more: str) -> tuple[TrainConfig, dict[str, float]]:
    """Train a moment; the best checkpoint must hold a network and a spec that fit each other."""
    config = load_config(preset, [*SHORT, f"data.path={str(data)!r}", *more])
    best = load_checkpoint(train(config, folder))
    spec = ModelSpec.from_json(best["spec"], "best.pt")
    module = build(read_config(best["network"], "best.pt"))
    module.load_state_dict(best["model"])
    assert spec.task == config.task
    assert spec.outputs == config.model.outputs
    assert (folder / "preview_0001.png").stat().st_size > 1000
    row = dict(zip(*(line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()), strict=True))
    return config, {name: float(value) for name, value in row.items() if value}


def write_masks(folder: Path, values: tuple[int, ...] = (0, 1, 2), stray: bool = False) -> Path:
    """Pictures whose cells have a nucleus: 0, 1, 2 in the mask, or the grey values as which white blood cells come."""
    rows = ["image,mask,split"]
    for i in range(4):
        grey, labels = draw_cells((40, 44), 3, seed=i, radius_px=(6, 9))
        mask = np.array(values, np.uint8)[np.where(grey > 150, 2, labels > 0)]
        mask[0, 0] = 7 if stray else 0
        write_png(folder / f"{i}.png", np.stack([grey, 255 - grey, grey], -1))
        write_png(folder / f"{i}_mask.png", mask)
        rows.append(f"{i}.png,{i}_mask.png,{'val' if i == 3 else 'train'}")
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    return folder / "list.csv"


def write_volumes(folder: Path) -> Path:
    """HDF5 pairs that do not say what their axes are, and another set in the same list."""
    rows = ["image,label,split,subset"]
    for i in range(3):
        grey, flat = draw_cells((32, 32), 4, seed=i, radius_px=(5, 8))
        with h5py.File(folder / f"{i}.h5", "w") as file:
            file["raw"] = np.repeat(grey[None], 16, 0).astype(np.uint16)
            file["label"] = np.repeat(flat[None], 16, 0)
        rows.append(f"{i}.h5:/raw,{i}.h5:/label,{'val' if i == 2 else 'train'},gland")
    rows.append("gone.tif,gone.tif,train,other")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return folder / "index.csv"


def test_classes_of_pixels(tmp_path: Path) -> None:
    small = ("data.crop_px=[32, 32]", "model.widths=[4, 6]")
    grey = write_masks(tmp_path, (0, 128, 255))
    _, row = run("wbc-unet", grey, tmp_path / "run", *small, "data.mask_values=[0,128,255]")
    assert 0 <= row["val_mean_dice"] <= 1
    assert {"val_dice_background", "val_dice_cytoplasm", "val_dice_nucleus", "val_mean_iou"} <= set(row)


def test_a_stray_value_in_a_mask_is_named_before_the_first_step(tmp_path: Path) -> None:
    path = write_masks(tmp_path, stray=True)
    config = load_config("wbc-fcn1", [*SHORT, f"data.path={str(path)!r}"])
    with pytest.raises(InputError, match=r"0_mask\.png: 1 px of values such as 7; expected 0, 1, 2"):
        RECIPES["semantic"](config)


def test_class_ids_are_never_mixed(tmp_path: Path) -> None:
    path = write_masks(tmp_path)
    config = load_config("wbc-unet", [*SHORT, f"data.path={str(path)!r}", "data.crop_px=[32, 32]"])
    samples = RECIPES["semantic"](config).samples
    for i in range(4):
        targets = samples[i][1]
        assert set(np.unique(targets[0].numpy())) <= {0.0, 1.0, 2.0}


def write_crops(path: Path, count: int = 24) -> Path:
    random = np.random.default_rng(0)
    dead = np.arange(count) % 3 == 0
    image = random.integers(0, 60, (count, 20, 20)).astype(np.uint8)
    image[~dead, 6:14, 6:14] += 150
    np.savez(path, image=image, dead=dead.astype(np.uint8), split=np.where(np.arange(count) < 16, "train", "val"))
    return path


@pytest.mark.parametrize("preset", ["livedead-resnet", "livedead-vgg"])
def test_classes_of_crops(tmp_path: Path, preset: str) -> None:
    small = ("data.crop_px=[20, 20]", "model.width=8") if preset.endswith("net") else (
        "data.crop_px=[20, 20]", "model.widths=[4, 6]", "model.convolutions=[1, 1]", "model.hidden=[6]"
    )  # fmt: skip
    config, row = run(preset, write_crops(tmp_path / "crops.npz"), tmp_path / "run", *small, "data.label=dead")
    assert {"val_balanced_accuracy", "val_roc_auc", "val_recall_live", "val_recall_dead"} <= set(row)
    assert config.tile == (512, 512)
    assert ModelSpec.from_json(load_checkpoint(tmp_path / "run" / "best.pt")["spec"], "").tile == (20, 20)


def test_rare_classes_are_drawn_as_often_as_asked(tmp_path: Path) -> None:
    path = write_crops(tmp_path / "crops.npz")
    settings = [f"data.path={str(path)!r}", "data.label=dead", "data.crop_px=[20, 20]", "augment.set=none"]
    for power, weights, share in ((1.0, "{}", 6 / 16), (0.0, "{}", 0.5), (0.0, "{ 1 = 4.0 }", 0.8)):
        drawn = [f"data.balance_power={power}", f"data.balance_weights={weights}"]
        config = load_config("livedead-resnet", [*settings, *drawn])
        samples = RECIPES["classification"](config).samples
        assert float(np.mean([int(samples[i][1]) for i in range(400)])) == pytest.approx(share, abs=0.08)
    drawn = samples.batch(range(7, 29))
    for number, sample in zip(range(7, 29), zip(*drawn, strict=True), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(sample, samples[number], strict=True))
    config = load_config("livedead-resnet", [*settings, "data.balance_weights={ dying = 2.0 }"])
    with pytest.raises(UsageError, match="names dying, found only 0, 1"):
        RECIPES["classification"](config)


def test_folds_of_crops_keep_pictures_together(tmp_path: Path) -> None:
    """Crops of one frame look alike: a fold must not validate on a frame that it trains on."""
    random = np.random.default_rng(0)
    frames = np.arange(24) // 4
    np.savez(
        tmp_path / "crops.npz",
        image=random.integers(0, 99, (24, 20, 20)).astype(np.uint8),
        label=(np.arange(24) % 2).astype(np.uint8),
        split=np.where(frames == 4, "test", np.where(frames == 5, "val", "train")),
        group=np.array([f"frame{i}" for i in frames]),
    )
    held = []
    for fold in range(5):
        settings = [f"data.path={str(tmp_path / 'crops.npz')!r}", "data.label=label", "data.crop_px=[20, 20]"]
        settings += ["data.folds=5", f"data.fold={fold}"]
        recipe = RECIPES["classification"](load_config("livedead-resnet", settings))
        sides = {crop.group for crop in recipe.train}, {crop.group for crop in recipe.truth}
        assert not sides[0] & sides[1]
        held += sides[1]
    assert sorted(held) == [f"frame{i}" for i in (0, 1, 2, 3, 5)], "what is kept for a test is in no fold"


TINY_VOLUMES = ("data.where.subset=gland", "data.crop_px=[8, 16, 16]", "model.widths=[4, 6]", "tile=[16, 32, 32]")


@pytest.mark.parametrize("preset", ["cells3d-mini", "tissue3d-boundary"])
def test_volumes(tmp_path: Path, preset: str) -> None:
    _, row = run(preset, write_volumes(tmp_path), tmp_path / "run", *TINY_VOLUMES)
    assert {"val_mean_ap", "val_voi"} <= set(row)
    assert {"val_wrong_cells", "val_cell_iou"} <= set(row) or "val_boundary_f1" in row


def test_volumes_that_stay_on_disk_give_the_same_samples(tmp_path: Path) -> None:
    """The maps are made once; a second run, and one after a picture has changed, find what is still true."""
    index = write_volumes(tmp_path)
    falk = (*TINY_VOLUMES, "loss.weights=falk")
    config = load_config("cells3d-mini", [*SHORT, f"data.path={str(index)!r}", *falk])
    cached = load_config(
        "cells3d-mini", [*SHORT, f"data.path={str(index)!r}", *falk, f"data.cache={str(tmp_path / 'cache')!r}"]
    )
    first = RECIPES["instances"](config).samples
    kept = RECIPES["instances"](cached)
    for i in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first[i], kept.samples[i], strict=True))
    pictures = read_pictures(cached)
    assert all(isinstance(p.image, np.memmap) for p in pictures.train)
    assert pictures.held == []
    assert len(pictures.truth(cached)[0].labels) == 16
    folders = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
    read_pictures(cached)
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()} == folders
    with h5py.File(tmp_path / "0.h5", "a") as file:
        file["raw"][0] = 9
    read_pictures(cached)
    assert len(list((tmp_path / "cache").iterdir())) == len(folders) + 1


def test_cells_from_boxes(tmp_path: Path) -> None:
    rows = ["frame,split,label,xmin,ymin,xmax,ymax"]
    for i in range(3):
        image, labels = draw_cells((48, 48), 3, seed=i)
        tifffile.imwrite(tmp_path / f"{i}.tif", image)
        for label in range(1, labels.max() + 1):
            y, x = np.nonzero(labels == label)
            rows.append(f"{i}.tif,{'val' if i == 2 else 'train'},live,{x.min()},{y.min()},{x.max() + 1},{y.max() + 1}")
    (tmp_path / "cells.csv").write_text("\n".join(rows) + "\n")
    small = ("data.crop_px=[32, 32]", "model.widths=[4, 6]")
    _, row = run("cells-brightfield", tmp_path / "cells.csv", tmp_path / "run", *small)
    assert "val_ap50" in row
    assert row["ram_peak_mb"] > 50
    assert json.loads(load_checkpoint(tmp_path / "run" / "last.pt")["history"])[0]["epoch"] == 1


def test_a_flat_picture_for_a_volume_network_is_refused(tmp_path: Path) -> None:
    for i in range(2):
        tifffile.imwrite(tmp_path / f"{i}.tif", np.full((20, 20), i, np.uint8))
    (tmp_path / "list.csv").write_text("image,label,split,subset\n0.tif,0.tif,train,gland\n1.tif,1.tif,val,gland\n")
    config = load_config("cells3d-mini", [*SHORT, f"data.path={str(tmp_path / 'list.csv')!r}", "data.axes=''"])
    with pytest.raises(InputError, match="2 dimensions, the model takes 3"):
        read_pictures(config)


def test_voxels_of_another_size_are_named(tmp_path: Path) -> None:
    for i, spacing in enumerate((1.75, 3.0)):
        tifffile.imwrite(
            tmp_path / f"{i}.ome.tif",
            np.full((8, 16, 16), i, np.uint8),
            metadata={"axes": "ZYX", "PhysicalSizeZ": spacing, "PhysicalSizeY": 0.8, "PhysicalSizeX": 0.8},
        )
    rows = "\n".join(f"{i}.ome.tif,{i}.ome.tif,{split},embryo" for i, split in ((0, "train"), (1, "val")))
    (tmp_path / "list.csv").write_text(f"image,label,split,subset\n{rows}\n")
    config = load_config("nuclei3d", [*SHORT, f"data.path={str(tmp_path / 'list.csv')!r}"])
    with pytest.raises(
        InputError, match=r"1\.ome\.tif: its voxels and those of voxel_size_um are 3 x 0\.8 x 0\.8 and 1\.75"
    ):
        read_pictures(config)
    config = load_config("nuclei3d", [*SHORT, f"data.path={str(tmp_path / 'list.csv')!r}", "data.any_voxel_size=true"])
    assert [picture.image.shape for picture in read_pictures(config).train] == [(1, 8, 16, 16)]
