"""Classifiers: on files of one crop each, and on the cells that another model found."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

import cellengine
from cellengine.engine.backends import open_session
from cellengine.engine.batch import Device, infer_files
from cellengine.engine.classify import check_classifier, cut_crop
from cellengine.engine.infer import infer_source
from cellengine.engine.options import InferOptions
from cellengine.engine.overlay import CLASS_COLOURS
from cellengine.engine.scene import scenes
from cellengine.engine.session import Session
from cellengine.engine.verify import verify_output
from cellengine.errors import InputError, PartialFailure, UsageError
from cellengine.io import MemorySource, read_table
from cellengine.spec import ClassOf, Normalize
from tests.engine.blobs import blob_spec, write_blob_model
from tests.engine.classes import class_spec, write_class_model

Array = np.ndarray[Any, Any]
CROP = {"task": "classification", "tile": (12, 12), "divisor": (1, 1)}
HOW = Device("cpu", "onnxruntime", "fp32")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_class_model(folder / "levels.onnx", **CROP)
    write_class_model(folder / "sized.onnx", **CROP, voxel_size_um=(1.0, 1.0))
    write_blob_model(folder / "blobs.onnx")
    return folder


@pytest.fixture(scope="module")
def blobs(models: Path) -> Iterator[Session]:
    with open_session(models / "blobs.onnx", device="cpu", backend="onnxruntime", precision="fp32") as session:
        yield session


@pytest.fixture(scope="module")
def levels(models: Path) -> Iterator[Session]:
    with open_session(models / "levels.onnx", device="cpu", backend="onnxruntime", precision="fp32") as session:
        yield session


def two_kinds(shape: tuple[int, int] = (140, 180), seed: int = 3) -> tuple[Array, list[tuple[int, int]]]:
    """Round cells of 16 px, middling above and bright below the diagonal, some cut by the border; and their centres."""
    rng = np.random.default_rng(seed)
    image, centres = np.zeros(shape), []
    y, x = np.mgrid[: shape[0], : shape[1]]
    for cy in range(3, shape[0], 26):
        for cx in range(5, shape[1], 26):
            image[np.hypot(y - cy, x - cx) < 9] = 200 if cy > cx else 110
            centres.append((cy, cx))
    return (image + rng.normal(0, 2, shape)).clip(0, 255).astype(np.uint8), centres


def expected_class(row: dict[str, Any], image: Array, tile: int = 12) -> str:
    """Cut around the middle of the box out of the mirrored picture, and take the level nearest to the mean.

    As the network does it: the mean of means of 3 px, with zeros around the crop.
    """
    padded = np.pad(image.astype(float), 30, mode="reflect")
    y, x = ((int(row[f"bbox_{a}0"]) + int(row[f"bbox_{a}1"])) // 2 - tile // 2 + 30 for a in "yx")
    mean = ndimage.uniform_filter(padded[y : y + tile, x : x + tile], 3, mode="constant").mean() / 200
    return ("dark", "middle", "bright")[int(np.abs(np.array([0, 0.5, 1]) - mean).argmin())]


def rows(table: dict[str, Array]) -> list[dict[str, Any]]:
    return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


def test_cells_get_the_class_of_the_crop_around_them(blobs: Session, levels: Session) -> None:
    image, centres = two_kinds()
    source = MemorySource(image, voxel_size_um=(0.5, 0.5))
    alone = infer_source(source, blobs, InferOptions())
    found = infer_source(source, blobs, InferOptions(), then=levels)
    np.testing.assert_array_equal(found.labels, alone.labels)
    assert len(found.objects["label"]) == len(centres)
    classes = [expected_class(row, image) for row in rows(found.objects)]
    assert found.objects["class"].tolist() == classes
    assert {"middle", "bright"} <= set(classes)
    assert (found.objects["score"] > 0.5).all()
    np.testing.assert_array_equal(found.objects["foreground"], alone.objects["score"])
    assert list(found.objects)[:4] == ["label", "class", "score", "foreground"]
    assert {k: v["objects"] for k, v in found.run["classes"].items() if v["objects"]} == {
        k: classes.count(k) for k in set(classes)
    }


def test_a_cell_and_the_file_of_its_crop_get_one_answer(blobs: Session, models: Path, tmp_path: Path) -> None:
    """Also where the scale is measured on each crop, and where the classifier takes the cell in other voxels."""
    changes = {**CROP, "normalize": Normalize("minmax"), "voxel_size_um": (1.0, 1.0)}
    path = write_class_model(tmp_path / "c.onnx", **changes)
    image, _ = two_kinds()
    (tmp_path / "crops").mkdir()
    with open_session(path, device="cpu", backend="onnxruntime", precision="fp32") as session:
        found = infer_source(MemorySource(image, voxel_size_um=(0.5, 0.5)), blobs, InferOptions(), then=session)
        table = rows(found.objects)
        padded = np.pad(image, 60, mode="symmetric")
        chosen = [r for r in table if not r["touches_border"]][:6]
        for r in chosen:
            # voxels of 1 um are pairs of voxels of 0.5 um, counted from the picture's corner
            y, x = (((r[f"bbox_{a}0"] + r[f"bbox_{a}1"]) // 4 - 6) * 2 + 60 for a in "yx")
            name = tmp_path / "crops" / f"{r['label']:03}.tif"
            resolution = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
            tifffile.imwrite(name, padded[y : y + 24, x : x + 24], **resolution)
        infer_files([str(tmp_path / "crops")], str(path), tmp_path / "out", InferOptions(), HOW)
    answers = read_table(tmp_path / "out" / "classes.csv")
    assert answers["class"].tolist() == [r["class"] for r in chosen]
    np.testing.assert_allclose(answers["score"], [r["score"] for r in chosen], rtol=1e-6)


def test_crops_at_the_border_are_mirrored_as_tiles_are(models: Path) -> None:
    image = np.random.default_rng(0).integers(0, 200, (20, 9)).astype(np.uint8)
    spec = class_spec("YX", **CROP, decoder=ClassOf())
    scene = scenes(MemorySource(image), spec, InferOptions())[0]
    padded = np.pad(image, [(40, 40), (40, 40)], mode="reflect") / 200
    for y, x in [(0, 0), (19, 8), (10, 4), (3, 7)]:
        expected = padded[y + 34 : y + 46, x + 34 : x + 46]
        np.testing.assert_allclose(cut_crop(scene, (y, x), spec, InferOptions())[0], expected, rtol=1e-6)


def test_a_folder_of_crops_of_any_size(models: Path, tmp_path: Path) -> None:
    """Bright, middling and dark squares of other sizes: the middle counts, small ones are continued."""
    folder = tmp_path / "crops"
    (folder / "deep").mkdir(parents=True)
    sizes = {"a.png": (12, 200), "b.png": (40, 100), "c.png": (5, 0), "deep/d.png": (12, 100)}
    for name, (side, value) in sizes.items():
        crop = np.full((side, side + 3), value, np.uint8)
        crop[: max(0, side // 2 - 6)] = 0  # beyond the middle 12 px
        Image.fromarray(crop).save(folder / name)
    summary = infer_files([str(folder)], str(models / "levels.onnx"), tmp_path / "out", InferOptions(), HOW)
    with (tmp_path / "out" / "classes.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["file", "class", "score", "dark", "middle", "bright"]
    found = {row["file"]: row["class"] for row in table}
    assert found == {"a.png": "bright", "b.png": "middle", "c.png": "dark", "deep/d.png": "middle"}
    for row in table:
        assert float(row["score"]) == float(row[row["class"]]) > 0.5
        assert sum(float(row[c]) for c in ("dark", "middle", "bright")) == pytest.approx(1, abs=1e-5)
    assert summary.records["a.png"]["class"] == "bright"
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["complete"]
    assert set(run["files"]) == set(sizes)
    verified = verify_output(tmp_path / "out")
    assert (verified.inputs, verified.outputs, verified.differing) == (4, 1, ())
    assert infer_files(
        [str(folder)], str(models / "levels.onnx"), tmp_path / "out", InferOptions(), HOW
    ).already_complete


def test_many_crops_in_full_batches(models: Path, tmp_path: Path) -> None:
    """More than a batch, each answer as that of the crop alone."""
    folder = tmp_path / "crops"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(70):
        Image.fromarray(rng.integers(0, 255, (12, 12)).astype(np.uint8)).save(folder / f"{i:02}.png")
    model = str(models / "levels.onnx")
    infer_files([str(folder)], model, tmp_path / "all", InferOptions(), HOW)
    table = read_table(tmp_path / "all" / "classes.csv")
    assert len(table["file"]) == 70
    infer_files([str(folder / "69.png")], model, tmp_path / "one", InferOptions(), HOW)
    assert read_table(tmp_path / "one" / "classes.csv")["bright"][0] == table["bright"][69]


def test_one_bad_crop_does_not_spoil_the_others(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "crops"
    folder.mkdir()
    Image.fromarray(np.full((12, 12), 200, np.uint8)).save(folder / "good.png")
    (folder / "bad.png").write_bytes((folder / "good.png").read_bytes()[:40])
    tifffile.imwrite(folder / "stack.tif", np.zeros((3, 12, 12), np.uint8), metadata={"axes": "ZYX"}, imagej=True)
    model = str(models / "levels.onnx")
    with pytest.raises(PartialFailure, match="2 of 3 inputs failed"):
        infer_files([str(folder)], model, tmp_path / "out", InferOptions(), HOW)
    assert read_table(tmp_path / "out" / "classes.csv")["file"].tolist() == ["good.png"]
    with (tmp_path / "out" / "failures.csv").open() as file:
        failures = {row["file"]: row["hint"] for row in csv.DictReader(file)}
    assert set(failures) == {"bad.png", "stack.tif"}
    assert "takes files of one crop each" in failures["stack.tif"]
    with pytest.raises(InputError, match=r"bad\.png"):
        infer_files([str(folder / "bad.png")], model, tmp_path / "single", InferOptions(), HOW)


def test_in_blocks_the_table_is_the_same(models: Path, tmp_path: Path) -> None:
    image, centres = two_kinds((300, 400))
    tifffile.imwrite(tmp_path / "cells.tif", image)
    tables, records, overlays = {}, {}, {}
    for name, ram in (("whole", None), ("blocks", 2_500_000)):
        options = InferOptions(max_ram=ram, tile=(32,))
        infer_files(
            [str(tmp_path / "cells.tif")], str(models / "blobs.onnx"), tmp_path / name, options, HOW,
            then=str(models / "levels.onnx"),
        )  # fmt: skip
        run = json.loads((tmp_path / name / "run.json").read_text())
        records[name] = run["files"]["cells.tif"]
        assert run["then"]["name"] == "levels"
        assert run["session"]["then"]["backend"] == "onnxruntime"
        tables[name] = (tmp_path / name / "cells.objects.csv").read_bytes()
        overlays[name] = np.array(Image.open(tmp_path / name / "cells.overlay.png"))
    assert records["blocks"]["blocks"] > 1
    assert tables["whole"] == tables["blocks"]
    assert records["whole"]["classes"] == records["blocks"]["classes"]
    np.testing.assert_array_equal(overlays["whole"], overlays["blocks"])
    outlines = overlays["whole"][np.ptp(overlays["whole"].astype(int), axis=-1) > 0]
    shown = {tuple(colour) for colour in np.unique(outlines, axis=0).tolist()}
    assert shown == {tuple(CLASS_COLOURS[i].tolist()) for i in (1, 2)}  # middle and bright
    assert sum(entry["objects"] for entry in records["whole"]["classes"].values()) == len(centres)


def test_cells_of_a_volume(tmp_path: Path) -> None:
    """Bright balls above, middling ones below, of voxels three times as long as the classifier takes them."""
    segment = write_blob_model(tmp_path / "blobs.onnx", "ZYX", tile=(16, 64, 64), object_size_px=16.0)
    changes = {"task": "classification", "tile": (9, 6, 6), "divisor": (1, 1, 1), "voxel_size_um": (1.0, 1.0, 1.0)}
    write_class_model(tmp_path / "levels.onnx", "ZYX", **changes)
    z, y, x = np.mgrid[:14, :60, :70]
    volume = np.random.default_rng(0).normal(4, 2, z.shape)
    for cz, cy, cx, value in [(3, 12, 15, 250), (3, 40, 50, 250), (10, 20, 40, 110), (10, 45, 15, 110)]:
        volume[(3 * (z - cz)) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 64] = value
    found = cellengine.infer(
        volume.clip(0, 255).astype(np.uint8), segment, axes="ZYX", voxel_size_um=(3.0, 1.0, 1.0),
        then=tmp_path / "levels.onnx",
    )  # fmt: skip
    above = found.objects["centroid_z_px"] < 7
    assert above.tolist() == [True, True, False, False]
    np.testing.assert_array_equal(found.objects["class"], np.where(above, "bright", "middle"))


def test_the_python_interface(models: Path) -> None:
    image, centres = two_kinds()
    found = cellengine.infer(image, models / "blobs.onnx", then=models / "levels.onnx")
    assert len(found.objects["class"]) == len(centres)


@pytest.mark.parametrize(("channel", "channels"), [(("1",), 3), (("1",), 1), (("0",), 2)])
def test_the_channels_of_the_classifier(
    blobs: Session, tmp_path: Path, channel: tuple[str, ...], channels: int
) -> None:
    """As many as the picture has: all of them. As many as the model takes: its own. Neither: the chosen one."""
    grey, _ = two_kinds()
    image = np.stack([grey, grey // 2, grey // 4])
    path = write_class_model(tmp_path / "c.onnx", **CROP, channels=tuple("abc"[:channels]))
    with open_session(path, device="cpu", backend="onnxruntime", precision="fp32") as session:
        found = infer_source(MemorySource(image, "CYX"), blobs, InferOptions(channel=channel), then=session)
    seen = {3: image.mean(0), 1: image[1], 2: image[0]}[channels]  # the model takes the mean of its channels
    assert found.objects["class"].tolist() == [expected_class(row, seen) for row in rows(found.objects)]


def test_an_empty_picture_has_no_classes(blobs: Session, levels: Session) -> None:
    found = infer_source(MemorySource(np.zeros((50, 60), np.uint8)), blobs, InferOptions(), then=levels)
    assert len(found.objects["class"]) == 0
    assert found.run["classes"]["bright"] == {"objects": 0, "share": 0}


def test_what_does_not_fit_is_refused(models: Path, levels: Session, tmp_path: Path) -> None:
    classifier = levels.spec
    with pytest.raises(UsageError, match="--then blobs: a model for instances was given, a classifier is expected"):
        check_classifier(blob_spec(), blob_spec())
    with pytest.raises(UsageError, match="takes crops in YX, the cells of blobs are found in ZYX"):
        check_classifier(classifier, blob_spec("ZYX"))
    with pytest.raises(UsageError, match="--then needs a model that finds cells; levels is one for semantic"):
        check_classifier(classifier, class_spec("YX"))
    with pytest.raises(UsageError, match="levels classifies crops and finds no cells: give it to --then"):
        infer_source(MemorySource(np.zeros((50, 60), np.uint8)), levels, InferOptions())
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(InputError, match=r"colour.png: found a colour picture, the model levels takes 1 .*--channel"):
        infer_files([str(tmp_path / "colour.png")], str(models / "levels.onnx"), tmp_path / "out", InferOptions(), HOW)
