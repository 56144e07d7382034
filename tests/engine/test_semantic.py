"""Class maps: every voxel the class of its brightness, for pictures, stacks and volumes, however they are cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from cellengine.cli.planned import describe_plan
from cellengine.engine import semantic as room
from cellengine.engine.backends import open_session
from cellengine.engine.batch import Device, infer_files
from cellengine.engine.forecast import forecast
from cellengine.engine.infer import infer_source
from cellengine.engine.options import InferOptions
from cellengine.engine.session import Session
from cellengine.errors import InputError, ModelError
from cellengine.geometry import Region
from cellengine.io import MemorySource, open_source, read_table
from cellengine.spec import ModelSpec
from tests.engine.classes import class_spec, write_class_model

Array = np.ndarray[Any, Any]


def patches(shape: tuple[int, ...], seed: int = 0) -> Array:
    """uint8, patches of three brightnesses."""
    coarse = np.random.default_rng(seed).choice([0, 100, 200], [-(-n // 8) for n in shape])
    whole = np.kron(coarse, np.ones((8,) * len(shape)))
    return whole[tuple(slice(n) for n in shape)].astype(np.uint8)


def expected(image: Array) -> Array:
    """The class whose level is nearest to the mean of 3 px around; the picture is reflected."""
    mean = ndimage.uniform_filter(image.astype(np.float64) / 200, 3, mode="mirror")
    return np.abs(mean[None] - np.array([0, 0.5, 1]).reshape(-1, *(1,) * image.ndim)).argmin(0)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    path = write_class_model(tmp_path_factory.mktemp("levels") / "levels.onnx")
    with open_session(path, device="cpu", backend="onnxruntime", precision="fp32") as opened:
        yield opened


def test_every_pixel_gets_its_class_and_every_class_its_area(session: Session) -> None:
    image = patches((90, 110))
    result = infer_source(MemorySource(image, voxel_size_um=(0.5, 0.2)), session, InferOptions())
    assert result.labels.dtype == np.uint8
    np.testing.assert_array_equal(result.labels, expected(image))
    counts = np.bincount(expected(image).ravel(), minlength=3)
    assert result.objects["class"].tolist() == ["dark", "middle", "bright"]
    assert result.objects["id"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(result.objects["area_px"], counts)
    np.testing.assert_allclose(result.objects["area_um2"], counts * 0.1)
    np.testing.assert_allclose(result.objects["share"], counts / image.size)
    assert result.run["classes"]["bright"] == {
        "px": counts[2],
        "share": pytest.approx(counts[2] / image.size, abs=1e-6),
    }


@pytest.mark.parametrize("size", [(0.25, 0.25), (1.0, 1.0), (0.3, 0.9)])
def test_tiles_and_pieces_do_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[float, float]
) -> None:
    """At the model's voxel size, finer, coarser and both."""
    path = write_class_model(tmp_path / "levels.onnx", voxel_size_um=(0.5, 0.5))
    source = MemorySource(patches((70, 110), 1), voxel_size_um=size)
    with open_session(path, device="cpu", backend="onnxruntime", precision="fp32") as session:
        whole = infer_source(source, session, InferOptions(tile=(256, 256), halo="exact"))
        monkeypatch.setattr(room, "PIECE_VOXELS", 100)
        tiled = infer_source(source, session, InferOptions(tile=(16, 24), halo="exact"))
    np.testing.assert_array_equal(whole.labels, tiled.labels)
    assert set(np.unique(whole.labels)) == {0, 1, 2}
    np.testing.assert_array_equal(whole.objects["area_px"], tiled.objects["area_px"])


def test_every_plane_is_its_own_picture_and_a_constant_one_is_the_first_class(session: Session) -> None:
    stack = np.stack([patches((40, 50), s) for s in range(4)]).reshape(2, 2, 40, 50)
    stack[1, 0] = 200
    result = infer_source(MemorySource(stack, "TZYX"), session, InferOptions())
    assert (result.axes, result.labels.shape) == ("TZYX", stack.shape)
    np.testing.assert_array_equal(result.labels[0, 1], expected(stack[0, 1]))
    assert not result.labels[1, 0].any()
    assert result.objects["t"].tolist() == [0] * 6 + [1] * 6
    assert result.objects["share"][6:9].tolist() == [1, 0, 0]


def test_a_volume(tmp_path: Path) -> None:
    path = write_class_model(tmp_path / "levels.onnx", "ZYX")
    volume = patches((20, 40, 50))
    with open_session(path, device="cpu", backend="onnxruntime", precision="fp32") as session:
        result = infer_source(MemorySource(volume, "ZYX"), session, InferOptions(tile=(16, 16, 32)))
    np.testing.assert_array_equal(result.labels, expected(volume))
    np.testing.assert_array_equal(result.objects["volume_px"], np.bincount(expected(volume).ravel()))


@pytest.mark.parametrize(("ram", "kept"), [(200_000_000, False), (500_000, True)])
def test_a_large_one_is_kept_as_it_comes_and_the_plan_says_so(session: Session, ram: int, kept: bool) -> None:
    options = InferOptions(max_ram=ram, tile=(32,))
    source = MemorySource(patches((400, 400)))
    found = forecast(source, session, options, Path("a"), is_zarr=False, voxels_per_s=None)
    assert found.resumable == kept
    assert ("kept on disk" in "\n".join(describe_plan([found]))) == kept


@pytest.mark.parametrize("form", ["tif", "ome-zarr"])
def test_files(tmp_path: Path, form: Any) -> None:
    model = write_class_model(tmp_path / "levels.onnx")
    image = patches((100, 120))
    tifffile.imwrite(tmp_path / "a.tif", image)
    how = Device("cpu", "onnxruntime", "fp32")
    options = InferOptions(tile=(32,), format=form, max_ram=1_000_000)  # far less than scores would take
    summary = infer_files([str(tmp_path / "a.tif")], str(model), tmp_path / "out", options, how)
    assert summary.task == "semantic"
    end = ".labels.ome.zarr" if form == "ome-zarr" else ".labels.tif"
    record = json.loads((tmp_path / "out" / "run.json").read_text())["files"]["a.tif"]
    assert record["outputs"] == ["a" + end, "a.classes.csv", "a.overlay.png"]
    assert sorted(record["outputs"]) == sorted(p.name for p in (tmp_path / "out").iterdir() if p.name[0] == "a")
    with open_source(tmp_path / "out" / ("a" + end)) as labels:
        np.testing.assert_array_equal(labels.read(Region.whole(labels.shape)), expected(image))
    table = read_table(tmp_path / "out" / "a.classes.csv")
    assert table["area_px"].tolist() == np.bincount(expected(image).ravel()).tolist()


def test_classes_must_be_named_one_by_one() -> None:
    text = class_spec("YX").to_json().replace('"middle",', "")
    with pytest.raises(ModelError, match=r"2 classes are named \(dark, bright\); expected one for each of the 3"):
        ModelSpec.from_json(text, "levels.onnx")


def test_values_that_are_no_numbers_are_refused(session: Session) -> None:
    image = patches((40, 50)).astype(np.float32)
    image[3, 3] = np.nan
    with pytest.raises(InputError, match="1 values that are NaN"):
        infer_source(MemorySource(image), session, InferOptions())
    assert infer_source(MemorySource(image), session, InferOptions(nan="zero")).run["not_finite"] == 1
