"""Volumes keep their values in the smallest type, are resampled, parted and padded; blocks give what a whole gives."""

from __future__ import annotations

import tracemalloc
from functools import partial
from math import ceil, sqrt
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.segmentation import find_boundaries

from cellengine.cli import group
from cellengine.engine.run import Progress
from cellengine.errors import InputError, UsageError
from cellengine.io.annotated import list_annotated, read_annotated
from cellengine.train.prepare import convert as convert_module
from cellengine.train.prepare.frame import Control, Finished
from cellengine.train.prepare.narrow import Range
from cellengine.train.prepare.pieces import count_pieces
from cellengine.train.prepare.volumes import VolumeOptions, prepare_volumes
from tests.train.prepare.helpers import problems, read_list, read_report

NUMBERS = st.sampled_from([0.0, 1.0, 200.0, 255.0, 256.0, 4095.0, 70000.0, -1.0, -200.0, 0.5, 0.1, 1e300])


@given(hnp.arrays(np.float64, (6,), elements=NUMBERS))
@settings(max_examples=30)
def test_the_narrow_type_holds_every_value(values: np.ndarray) -> None:
    seen = Range()
    seen.add(values[:2])
    seen.add(values[2:])
    np.testing.assert_array_equal(values.astype(seen.dtype).astype(np.float64), values)
    whole = np.array_equal(values, np.rint(values)) and np.abs(values).max() < 2**31
    assert (seen.dtype.kind in "ui") == whole
    if whole and seen.dtype.itemsize > 1:
        smaller = np.dtype(f"{seen.dtype.kind}{seen.dtype.itemsize // 2}")
        assert not np.array_equal(values.astype(smaller).astype(np.float64), values)


def make_volume(seed: int, shape: tuple[int, int, int] = (12, 40, 44)) -> tuple[np.ndarray, np.ndarray]:
    """A 12-bit volume and confluent cells that touch, 1 ... n, with background around."""
    random = np.random.default_rng(seed)
    points = random.uniform(0, shape, (9, 3))
    grid = np.moveaxis(np.indices(shape), 0, -1)
    labels = (np.linalg.norm(grid[..., None, :] - points, axis=-1).argmin(axis=-1) + 1).astype(np.uint16)
    labels[:2] = labels[:, :4] = 0
    labels = np.searchsorted(np.unique(labels), labels).astype(np.uint16)
    raw = random.integers(0, 300, shape) + 3000 * find_boundaries(labels)
    return raw.astype(np.uint16), labels


def write_hdf5(path: Path, raw: np.ndarray, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["raw"], file["label"] = raw.astype("f8"), labels.astype("f8")


def prepared(output: Path, name: str) -> dict[str, np.ndarray]:
    with h5py.File(output / "volumes" / f"{name}.h5") as file:
        return {key: file[key][:] for key in file}


ZYX = VolumeOptions(axes="ZYX")


def test_doubles_become_small_integers_without_loss(tmp_path: Path) -> None:
    made = {f"stack{i}": make_volume(i) for i in range(3)}
    for name, (raw, labels) in made.items():
        write_hdf5(tmp_path / "in" / f"{name}.h5", raw, labels)
    prepare_volumes(tmp_path / "in", tmp_path / "out", ZYX)
    for item in list_annotated(tmp_path / "out" / "list.csv"):
        raw, labels = made[item.image.stem]
        picture = read_annotated(item)
        assert picture.image.dtype == picture.labels.dtype == np.uint16
        np.testing.assert_array_equal(picture.image, raw[None])
        np.testing.assert_array_equal(picture.labels, labels)
    report = read_report(tmp_path / "out")
    assert report["defects"] == []
    assert [row["stored_as"] for row in report["tables"]["Volumes"]] == ["float64"] * 3
    whole = (tmp_path / "in" / "stack0.h5").stat().st_size
    assert (tmp_path / "out" / "volumes" / "stack0.h5").stat().st_size < whole / 4


def spline_by_scipy(raw: np.ndarray, new_shape: tuple[int, ...]) -> np.ndarray:
    pad = 40
    smooth = np.pad(raw.astype(float), pad, mode="symmetric")
    factors = [n / m for n, m in zip(raw.shape, new_shape, strict=True)]
    for axis, factor in enumerate(factors):
        sigma = sqrt((factor**2 - 1) / 12)
        smooth = ndimage.gaussian_filter1d(smooth, sigma, axis, radius=ceil(4 * sigma)) if sigma else smooth
    axes = [(np.arange(m) + 0.5) * f - 0.5 + pad for m, f in zip(new_shape, factors, strict=True)]
    return ndimage.map_coordinates(smooth, np.meshgrid(*axes, indexing="ij"), order=3)


@pytest.mark.parametrize("small_blocks", [False, True])
def test_everything_at_once_equals_the_same_on_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_blocks: bool
) -> None:
    if small_blocks:
        monkeypatch.setattr(convert_module, "BLOCK", (5, 8, 8))
        monkeypatch.setattr(convert_module, "READ_VOXELS", 15000)
        monkeypatch.setattr(convert_module, "SCAN_VOXELS", 5000)
    raw, labels = make_volume(5)
    write_hdf5(tmp_path / "in" / "a.h5", raw, labels)
    options = VolumeOptions(
        axes="ZYX", factor=(2, 4, 4), pad_to=(8, 10, 16), gap=True, boundary_px=2, boundary_blur_px=0.8
    )
    prepare_volumes(tmp_path / "in", tmp_path / "out", options)
    found = prepared(tmp_path / "out", "a")
    small = labels[1::2, 2::4, 2::4]
    inside = tuple(slice(0, n) for n in small.shape)
    assert small.shape == (6, 10, 11)
    expected = np.rint(spline_by_scipy(raw, small.shape)).clip(0, 65535)
    np.testing.assert_allclose(found["raw"][inside], expected, atol=1)
    assert (found["raw"][inside] == expected).mean() > 0.99
    marked = find_boundaries(small, connectivity=3, mode="outer")
    np.testing.assert_array_equal(found["label"][inside], np.where(marked, 0, small))
    band = find_boundaries(small, connectivity=1, mode="thick").astype(float)
    blurred = ndimage.gaussian_filter(band, 0.8)
    np.testing.assert_allclose(found["boundary"][inside] / 255, blurred, atol=0.01)
    outside = np.ones(found["raw"].shape, bool)
    outside[inside] = False
    assert (found["raw"][outside] == raw.min()).all()
    assert not found["label"][outside].any()
    row = read_report(tmp_path / "out")["tables"]["Volumes"][0]
    cells = len(np.unique(labels)) - 1
    kept = len(np.unique(found["label"])) - 1
    assert (row["cells"], row["cells_after"]) == (cells, kept)
    assert row["pieces"] == ndimage.label(found["label"] > 0, np.ones((3, 3, 3)))[1]


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)), st.integers(1, 6))
@settings(max_examples=60)
def test_pieces_of_slabs_are_those_of_the_whole(mask: np.ndarray, planes: int) -> None:
    slabs = (mask[z : z + planes] for z in range(0, len(mask), planes))
    assert count_pieces(slabs) == ndimage.label(mask, np.ones((3, 3, 3)))[1]


@pytest.mark.parametrize("voxels", [500, 1 << 22])
def test_cells_that_still_touch_are_a_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voxels: int) -> None:
    monkeypatch.setattr(convert_module, "SCAN_VOXELS", voxels)
    labels = np.zeros((9, 12, 12), np.uint8)
    labels[:5, :6], labels[5:, 6:], labels[:2, 9:, 9:] = 1, 2, 3
    write_hdf5(tmp_path / "in" / "a.h5", labels + 7, labels)
    options = VolumeOptions(axes="ZYX", gap=True)
    planned: list[int] = []
    done: list[int] = []
    control = Control(progress=Progress(partial(_second, planned), done.append))
    prepare_volumes(tmp_path / "in", tmp_path / "parted", options, control=control)
    report = read_report(tmp_path / "parted")
    assert report["tables"]["Volumes"][0]["pieces"] == 3
    assert report["defects"] == []
    assert sum(done) == sum(planned)
    monkeypatch.setattr(convert_module, "part_touching", lambda cells: cells)
    prepare_volumes(tmp_path / "in", tmp_path / "touching", options)
    assert problems(read_report(tmp_path / "touching"))["a"] == ["3 cells are 2 connected pieces: some still touch"]


def test_the_blur_is_as_long_along_every_axis(tmp_path: Path) -> None:
    labels = np.zeros((12, 40, 40), np.uint16)
    labels[:, :, :20], labels[:, :, 20:] = 1, 2
    labels[6:] += 2
    for sub in ("images", "labels"):
        (tmp_path / "in" / sub).mkdir(parents=True)
        metadata = {"axes": "ZYX", "PhysicalSizeZ": 2.0, "PhysicalSizeY": 0.5, "PhysicalSizeX": 0.5}
        tifffile.imwrite(tmp_path / "in" / sub / "a.ome.tif", labels, metadata=metadata)
    options = VolumeOptions(boundary_px=2, boundary_blur_px=2.0)
    prepare_volumes(tmp_path / "in", tmp_path / "out", options)
    band = find_boundaries(labels, connectivity=1, mode="thick").astype(float)
    blurred = ndimage.gaussian_filter(band, (0.5, 2, 2))
    np.testing.assert_allclose(prepared(tmp_path / "out", "a")["boundary"] / 255, blurred, atol=0.01)


def test_a_volume_larger_than_the_shape_of_all_is_refused(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "in" / "small.h5", *make_volume(0))
    write_hdf5(tmp_path / "in" / "wide.h5", *make_volume(1, (10, 40, 60)))
    message = "--pad-to 16,40,50: wide is larger, 10,40,60; give at least 12,40,60, or --pad-to largest"
    with pytest.raises(UsageError, match=message):
        prepare_volumes(tmp_path / "in", tmp_path / "out", VolumeOptions(axes="ZYX", pad_to=(16, 40, 50)))
    assert not (tmp_path / "out").exists()
    prepare_volumes(tmp_path / "in", tmp_path / "out", VolumeOptions(axes="ZYX", pad_to=(0, 0, 0)))
    assert {prepared(tmp_path / "out", name)["raw"].shape for name in ("small", "wide")} == {(12, 40, 60)}


def test_a_list_that_is_edited_counts_and_only_what_changed_is_made_anew(tmp_path: Path) -> None:
    for i in range(3):
        write_hdf5(tmp_path / f"{i}.h5", *make_volume(i))
    lines = [f"{i}.h5:/raw,{i}.h5:/label,{'val' if i == 2 else 'train'}" for i in range(3)]

    def prepare(*rows: str) -> tuple[Finished, list[int]]:
        (tmp_path / "list.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
        finished = prepare_volumes(tmp_path / "list.csv", tmp_path / "out", ZYX)
        return finished, [(tmp_path / "out" / "volumes" / f"{i}.h5").stat().st_mtime_ns for i in range(3)]

    _, times = prepare(*lines)
    assert prepare_volumes(tmp_path / "list.csv", tmp_path / "out", ZYX).was_complete
    finished, again = prepare(lines[0], lines[1].replace("train", "val"), lines[2])
    assert not finished.was_complete
    assert again == times
    assert [row["split"] for row in read_list(tmp_path / "out" / "list.csv")] == ["train", "val", "val"]
    finished, again = prepare(lines[0].replace("0.h5:/label", "0.h5:/raw"), *lines[1:])
    assert [a == b for a, b in zip(again, times, strict=True)] == [False, True, True]


def test_memory_does_not_grow_with_the_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BLOCK", (8, 16, 16)), ("READ_VOXELS", 40_000), ("SCAN_VOXELS", 20_000)):
        monkeypatch.setattr(convert_module, name, value)
    raw, labels = make_volume(3)
    options = VolumeOptions(axes="ZYX", factor=(1, 2, 2), boundary_px=2, gap=True)
    write_hdf5(tmp_path / "in1" / "a.h5", raw, labels)
    prepare_volumes(tmp_path / "in1", tmp_path / "out1", options)  # compiles and loads what is needed
    peaks = []
    for times in (2, 6):
        write_hdf5(tmp_path / f"in{times}" / "a.h5", np.tile(raw, (times, 3, 2)), np.tile(labels, (times, 3, 2)))
        planned: list[int] = []
        done: list[int] = []
        tracemalloc.start()
        control = Control(progress=Progress(partial(_second, planned), done.append))
        prepare_volumes(tmp_path / f"in{times}", tmp_path / f"out{times}", options, control=control)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(done) == sum(planned) > 20
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < 6 * 3 * 2 * raw.size * 8 / 2


def _second(into: list[int], name: str, steps: int) -> None:
    into.append(steps)


def test_cells_that_vanish_are_named(tmp_path: Path) -> None:
    labels = np.zeros((6, 12, 12), np.uint8)
    labels[:, :5], labels[:, 5:6], labels[:, 6:] = 1, 2, 4
    write_hdf5(tmp_path / "in" / "a.h5", labels + 7, labels)
    prepare_volumes(tmp_path / "in", tmp_path / "out", VolumeOptions(axes="ZYX", gap=True))
    assert problems(read_report(tmp_path / "out"))["a"] == [
        "1 of 3 cells vanish with the gap between cells: 2",
        "the labels run to 4 but 1 numbers are missing",
    ]
    speck = np.zeros((6, 12, 12), np.uint8)
    speck[:, 6:], speck[0, 0, 0] = 1, 2
    write_hdf5(tmp_path / "specks" / "b.h5", speck, speck)
    prepare_volumes(tmp_path / "specks", tmp_path / "small", VolumeOptions(axes="ZYX", factor=(3, 3, 3)))
    assert problems(read_report(tmp_path / "small"))["b"] == ["1 of 2 cells vanish with resampling: 2"]


def test_other_formats_and_voxel_sizes(tmp_path: Path) -> None:
    raw, labels = make_volume(1)
    for sub in ("images", "labels"):
        (tmp_path / "in" / sub).mkdir(parents=True)
    metadata = {"axes": "ZYX", "PhysicalSizeZ": 2.0, "PhysicalSizeY": 0.5, "PhysicalSizeX": 0.5}
    tifffile.imwrite(tmp_path / "in" / "images" / "a.ome.tif", raw, metadata=metadata)
    tifffile.imwrite(tmp_path / "in" / "labels" / "a.tif", labels, metadata={"axes": "ZYX"})
    for sub, array in (("images", raw), ("labels", labels)):
        root = zarr.open_group(tmp_path / "in" / sub / "b.ome.zarr", mode="w", zarr_format=3)
        root.create_array("0", data=array, chunks=(4, 16, 16))
        scale = [{"type": "scale", "scale": [2.0, 0.5, 0.5]}]
        axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
        dataset = {"path": "0", "coordinateTransformations": scale}
        root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [dataset]}]}
    prepare_volumes(tmp_path / "in", tmp_path / "out", VolumeOptions(voxel_size_um=(2, 1, 1)))
    for name in ("a", "b"):
        assert prepared(tmp_path / "out", name)["label"].shape == (12, 20, 22)
        with h5py.File(tmp_path / "out" / "volumes" / f"{name}.h5") as file:
            assert file["raw"].attrs["element_size_um"].tolist() == [2, 1, 1]
    write_matlab(tmp_path / "mat" / "c.mat", raw, labels)
    prepare_volumes(tmp_path / "mat", tmp_path / "c", VolumeOptions(axes="YXZ"))
    np.testing.assert_array_equal(prepared(tmp_path / "c", "c")["raw"], raw)
    np.testing.assert_array_equal(prepared(tmp_path / "c", "c")["label"], labels)


def write_matlab(path: Path, raw: np.ndarray, labels: np.ndarray) -> None:
    """A MATLAB 7.3 file with arrays of rows, columns, slices: HDF5 behind a text of 512 bytes, dimensions reversed."""
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in (("raw", raw), ("label", labels)):
            file[name] = array.transpose(0, 2, 1).astype("f8")
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("rb+") as handle:
        handle.write(b"MATLAB 7.3 MAT-file".ljust(128))


def test_every_defect_is_listed(tmp_path: Path) -> None:
    raw, labels = make_volume(2)
    folder = tmp_path / "in"
    write_hdf5(folder / "good.h5", raw, labels)
    write_hdf5(folder / "size.h5", raw, labels[:, :10])
    write_hdf5(folder / "negative.h5", raw, labels.astype(float) - 1)
    write_hdf5(folder / "halves.h5", raw, labels + 0.5)
    write_hdf5(folder / "empty.h5", raw, labels * 0)
    write_hdf5(folder / "nan.h5", np.where(labels == 1, np.nan, raw), labels)
    with h5py.File(folder / "lonely.h5", "w") as file:
        file["raw"] = raw
    (folder / "broken.h5").write_bytes((folder / "good.h5").read_bytes()[:3000])
    prepare_volumes(folder, tmp_path / "out", ZYX)
    found = problems(read_report(tmp_path / "out"))
    assert found["size"] == ["the labels are (12, 10, 44), the volume is (12, 40, 44)"]
    assert found["negative"] == [
        f"the labels hold values from -1.0 to {labels.max() - 1.0}; expected whole numbers from 0, one a cell"
    ]
    assert found["halves"][0].startswith("the labels hold fractions")
    assert found["nan"] == [f"{(labels == 1).sum()} voxels are not finite (NaN or infinity)"]
    assert found["empty"] == ["there is no cell in the labels"]
    assert "'label' is not among its datasets" in found["lonely"][0]
    assert "broken.h5" in found["broken"][0]
    assert {Path(row["image"].partition(":")[0]).stem for row in read_list(tmp_path / "out" / "list.csv")} == {
        "good", "empty",
    }  # fmt: skip
    assert not [path for path in (tmp_path / "out" / "volumes").iterdir() if path.name.startswith(".")]


def test_refusals(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "in" / "a.h5", *make_volume(0))
    with pytest.raises(UsageError, match="neither a CSV list"):
        prepare_volumes(tmp_path / "nowhere", tmp_path / "out", ZYX)
    with pytest.raises(UsageError, match="--factor and --voxel-size"):
        prepare_volumes(tmp_path / "in", tmp_path / "out", VolumeOptions(factor=(1, 1, 1), voxel_size_um=(1, 1, 1)))
    with pytest.raises(InputError, match="the file says no voxel size; give --factor"):
        prepare_volumes(tmp_path / "in", tmp_path / "out", VolumeOptions(axes="ZYX", voxel_size_um=(1, 1, 1)))
    with pytest.raises(InputError, match="does not say what its dimensions 12 x 40 x 44 are"):
        prepare_volumes(tmp_path / "in", tmp_path / "out", VolumeOptions())


def test_the_command_on_real_glands(data: Path, tmp_path: Path) -> None:
    for name in ("2017-12-04_1a", "2019-01-15_3a"):
        with h5py.File(data / "volumes" / "gland" / f"{name}.h5") as file:
            write_hdf5(tmp_path / "in" / f"{name}.h5", file["raw"][:], file["label"][:])
    arguments = ["prepare", "volumes", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--axes", "ZYX"]
    arguments += ["--gap", "--boundary", "2", "--blur", "1", "--pad-to", "largest", "--validation", "0.5"]
    result = CliRunner().invoke(group, arguments)
    assert result.exit_code == 0, result.output
    rows = read_report(tmp_path / "out")["tables"]["Volumes"]
    assert [row["now"] for row in rows] == ["uint16", "uint16"]
    assert [row["cells"] for row in rows] == [72, 86]
    assert {row["z"] for row in read_list(tmp_path / "out" / "list.csv")} == {"71"}
    parted = prepared(tmp_path / "out", "2017-12-04_1a")["label"]
    assert not find_boundaries(parted, connectivity=3, mode="outer")[parted > 0].any()
