"""Every kind of sink, read back by another library than the one that wrote it.

TIFF is written by tifffile and read by libtiff (imagecodecs), Pillow and ome-types; Zarr is written by zarr-python and
read by tensorstore, and its metadata judged by yaozarrs and ome-zarr-models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cellengine.errors import ResourceError, UsageError
from cellengine.geometry import Region, plan_tiles
from cellengine.io import LabelSink, MemorySink, create_sink, open_source, tiff_sink
from cellengine.io.axes import Array

CASES = {
    "YX": (67, 83),
    "ZYX": (5, 33, 41),
    "TYX": (3, 33, 41),
    "TZYX": (2, 3, 20, 31),
    "TCZYX": (2, 2, 3, 20, 31),
}
ODD_SHAPES = [
    ("YX", (1, 1)),
    ("YX", (7, 1)),
    ("YX", (1, 7)),
    ("ZYX", (3, 1, 1)),
    ("ZYX", (2, 5, 3)),
    ("TZYX", (1, 1, 4, 5)),
]
VOXEL = {"Z": 2.0, "Y": 0.5, "X": 0.25}


def labels(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 2**32, shape, np.uint32)


def sizes(axes: str) -> tuple[float, ...]:
    return tuple(VOXEL[a] for a in "ZYX" if a in axes)


def blocks(shape: tuple[int, ...], step: tuple[int, ...]) -> Iterator[Region]:
    for tile in plan_tiles(shape, step, (0,) * len(shape), (1,) * len(shape)):
        yield tile.core


class SinkConformance:
    suffix: ClassVar[str]

    def read_back(self, path: Path, shape: tuple[int, ...]) -> Array:
        raise NotImplementedError

    def digest(self, path: Path) -> str:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()

    def path(self, folder: Path, name: str = "a") -> Path:
        return folder / f"{name}.labels{self.suffix}"

    def left_in(self, folder: Path) -> list[str]:
        return sorted(p.name for p in folder.iterdir())

    @pytest.mark.parametrize(("axes", "shape"), [*CASES.items(), *ODD_SHAPES])
    def test_the_whole_image_in_one_write(self, tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
        with create_sink(self.path(tmp_path), shape, axes, sizes(axes)) as sink:
            assert isinstance(sink, LabelSink)
            assert (sink.shape, sink.dtype, len(sink.chunks)) == (shape, np.uint32, len(shape))
            sink.write(Region.whole(shape), labels(shape))
            assert not self.path(tmp_path).exists()
        assert self.left_in(tmp_path) == [self.path(tmp_path).name]
        got = self.read_back(self.path(tmp_path), shape)
        assert got.dtype == np.uint32
        np.testing.assert_array_equal(got, labels(shape))

    @pytest.mark.parametrize(("axes", "shape"), CASES.items())
    def test_our_own_reader_finds_axes_and_voxel_size(self, tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
        with create_sink(self.path(tmp_path), shape, axes, sizes(axes)) as sink:
            sink.write(Region.whole(shape), labels(shape))
        with open_source(self.path(tmp_path)) as source:
            assert (source.axes, source.shape, source.dtype) == (axes, shape, np.uint32)
            assert source.voxel_size_um == pytest.approx(sizes(axes))
            assert source.missing_chunks() == 0
            np.testing.assert_array_equal(source.read(Region.whole(shape)), labels(shape))

    def test_any_cut_into_blocks_gives_the_same(self, tmp_path: Path) -> None:
        whole = tmp_path / "whole"
        for axes, shape in CASES.items():
            with create_sink(self.path(whole, axes), shape, axes, sizes(axes)) as sink:
                sink.write(Region.whole(shape), labels(shape))

        @settings(max_examples=15, deadline=None)
        @given(st.data())
        def check(data: st.DataObject) -> None:
            axes = data.draw(st.sampled_from(sorted(CASES)))
            shape = CASES[axes]
            step = tuple(data.draw(st.integers(max(1, n // 4), n)) for n in shape)
            order = data.draw(st.permutations(list(blocks(shape, step))))
            path = self.path(tmp_path / "parts", axes)
            with create_sink(path, shape, axes, sizes(axes)) as sink:
                for region in order:
                    sink.write(region, labels(shape)[region.slices])
            np.testing.assert_array_equal(self.read_back(path, shape), labels(shape))
            assert self.digest(path) == self.digest(self.path(whole, axes))

        check()

    def test_threads_write_side_by_side(self, tmp_path: Path) -> None:
        shape = (4, 150, 170)
        with create_sink(self.path(tmp_path), shape, "ZYX") as sink, ThreadPoolExecutor(6) as pool:
            regions = list(blocks(shape, (1, 40, 33)))
            for done in [pool.submit(sink.write, r, labels(shape)[r.slices]) for r in regions]:
                done.result()
        np.testing.assert_array_equal(self.read_back(self.path(tmp_path), shape), labels(shape))

    def test_what_is_never_written_is_background(self, tmp_path: Path) -> None:
        shape, region = (40, 50), Region((3, 4), (10, 12))
        with create_sink(self.path(tmp_path, "part"), shape, "YX") as sink:
            sink.write(region, labels(region.shape))
        expected = np.zeros(shape, np.uint32)
        expected[region.slices] = labels(region.shape)
        np.testing.assert_array_equal(self.read_back(self.path(tmp_path, "part"), shape), expected)
        create_sink(self.path(tmp_path, "none"), shape, "YX").close()
        assert not self.read_back(self.path(tmp_path, "none"), shape).any()

    def test_an_error_leaves_nothing_and_the_old_file_as_it_was(self, tmp_path: Path) -> None:
        shape = (40, 50)
        sink = create_sink(self.path(tmp_path), shape, "YX")
        sink.write(Region((0, 0), (10, 50)), labels((10, 50)))
        with pytest.raises(ValueError, match="label image of"), sink:
            sink.write(Region((30, 0), (50, 50)), labels((20, 50)))
        assert self.left_in(tmp_path) == []
        for seed in (1, 2):
            with create_sink(self.path(tmp_path), shape, "YX") as sink:
                sink.write(Region.whole(shape), labels(shape, seed))
        aborted = create_sink(self.path(tmp_path), shape, "YX")
        aborted.write(Region.whole(shape), labels(shape, 3))
        aborted.abort()
        aborted.close()
        assert self.left_in(tmp_path) == [self.path(tmp_path).name]
        np.testing.assert_array_equal(self.read_back(self.path(tmp_path), shape), labels(shape, 2))

    def test_what_a_killed_run_left_does_not_show(self, tmp_path: Path) -> None:
        shape, region = (40, 50), Region((0, 0), (10, 50))
        killed = create_sink(self.path(tmp_path), shape, "YX")
        killed.write(Region((5, 0), (40, 50)), labels((35, 50)))
        with create_sink(self.path(tmp_path), shape, "YX") as sink:
            sink.write(region, labels(region.shape, 1))
        got = self.read_back(self.path(tmp_path), shape)
        np.testing.assert_array_equal(got[:10], labels(region.shape, 1))
        assert not got[10:].any()
        assert self.left_in(tmp_path) == [self.path(tmp_path).name]

    def test_small_types_for_class_maps(self, tmp_path: Path) -> None:
        classes = np.random.default_rng(0).integers(0, 3, (40, 50)).astype(np.uint8)
        with create_sink(self.path(tmp_path), (40, 50), "YX", dtype=np.uint8) as sink:
            sink.write(Region.whole((40, 50)), classes)
        got = self.read_back(self.path(tmp_path), (40, 50))
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, classes)

    def test_what_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        with create_sink(self.path(tmp_path), (40, 50), "YX") as sink:
            for region, array in [
                (Region((0, 0), (41, 50)), labels((41, 50))),
                (Region((0, 0), (40, 50)), labels((40, 49))),
            ]:
                with pytest.raises(ValueError, match="label image of"):
                    sink.write(region, array)

    def test_a_folder_that_cannot_be_made_is_an_error_before_any_work(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ResourceError, match="cannot be written"):
            create_sink(tmp_path / "file" / f"a{self.suffix}", (4, 5), "YX")


class TestTiff(SinkConformance):
    suffix = ".tif"

    def read_back(self, path: Path, shape: tuple[int, ...]) -> Array:
        return np.asarray(imagecodecs.tiff_decode(path.read_bytes(), index=None)).reshape(shape)

    def test_other_programs_see_the_calibration(self, tmp_path: Path) -> None:
        ome_types = pytest.importorskip("ome_types", reason="ome-types comes with the extra 'formats'")
        with create_sink(self.path(tmp_path), CASES["TZYX"], "TZYX", (2.0, 0.5, 0.25)) as sink:
            sink.write(Region.whole(CASES["TZYX"]), labels(CASES["TZYX"]))
        with Image.open(self.path(tmp_path)) as picture:
            assert picture.n_frames == 6
            resolution = [float(picture.tag_v2[code]) for code in (282, 283)]
            assert (resolution, picture.tag_v2[296]) == ([40_000.0, 20_000.0], 3)
            description = str(picture.tag_v2[270]).encode("latin-1").decode()
        pixels = ome_types.from_xml(description).images[0].pixels
        assert (pixels.size_t, pixels.size_z, pixels.size_c, pixels.size_y, pixels.size_x) == (2, 3, 1, 20, 31)
        found = (pixels.physical_size_z, pixels.physical_size_y, pixels.physical_size_x)
        assert found == (2.0, 0.5, 0.25)
        assert pixels.physical_size_x_unit.value == "µm"
        assert pixels.type.value == "uint32"

    def test_real_labels_shrink(self, tmp_path: Path) -> None:
        picture = np.kron(labels((8, 8)), np.ones((64, 64), np.uint32))
        with create_sink(self.path(tmp_path), picture.shape, "YX") as sink:
            sink.write(Region.whole(picture.shape), picture)
        assert self.path(tmp_path).stat().st_size < picture.nbytes / 50

    @pytest.mark.parametrize(("file", "whole"), [("partial", True), ("scratch", False), ("partial", False)])
    def test_a_full_disk_says_so(self, tmp_path: Path, file: str, whole: bool) -> None:
        full = Path("/dev/full")
        if not full.exists():
            pytest.skip("this system has no /dev/full to stand for a full disk")
        path, shape = self.path(tmp_path), (400, 500)
        region = Region.whole(shape) if whole else Region((0, 0), (200, 500))
        sink = create_sink(path, shape, "YX")
        (tmp_path / f".{path.name}.partial").unlink()
        (tmp_path / f".{path.name}.{file}").symlink_to(full)
        with pytest.raises(ResourceError, match="disk is full"), sink:
            sink.write(region, labels(region.shape))
        assert self.left_in(tmp_path) == []

    def test_above_the_limit_of_classic_tiff_it_is_bigtiff(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shape = (5, 30, 40)
        monkeypatch.setattr(tiff_sink, "_CLASSIC_LIMIT", 5 * 30 * 40 * 4 - 1)
        self.test_the_whole_image_in_one_write(tmp_path, "ZYX", shape)
        assert self.path(tmp_path).read_bytes()[:4] == b"II\x2b\x00"


class TestZarr(SinkConformance):
    suffix = ".ome.zarr"

    def read_back(self, path: Path, shape: tuple[int, ...]) -> Array:
        tensorstore = pytest.importorskip("tensorstore", reason="tensorstore reads Zarr without zarr-python")
        store = {"driver": "file", "path": str(path / "labels" / "cells" / "0")}
        array = np.asarray(tensorstore.open({"driver": "zarr3", "kvstore": store}).result().read().result())
        assert array.shape == shape
        return array

    def made(self, folder: Path, shape: tuple[int, ...], axes: str) -> Path:
        with create_sink(self.path(folder), shape, axes, sizes(axes)) as sink:
            sink.write(Region.whole(shape), labels(shape))
        return self.path(folder)

    @pytest.mark.parametrize(("axes", "shape"), [("YX", (700, 900)), *CASES.items()])
    def test_independent_validators_agree(self, tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
        yaozarrs = pytest.importorskip("yaozarrs")
        path = self.made(tmp_path, shape, axes)
        kinds = {"": "Image", "labels": "LabelsGroup", "labels/cells": "LabelImage"}
        for below, kind in kinds.items():
            yaozarrs.validate_zarr_store(str(path / below))
            assert type(yaozarrs.open_group(str(path / below)).ome_metadata()).__name__ == kind

    def test_a_second_validator_agrees(self, tmp_path: Path) -> None:
        models = pytest.importorskip("ome_zarr_models")
        import zarr

        path = self.made(tmp_path, (700, 900), "YX")
        for below, kind in {"": "Image", "labels": "Labels", "labels/cells": "ImageLabel"}.items():
            group = models.open_ome_zarr(zarr.open_group(path / below, mode="r"))
            assert type(group).__name__ == kind

    def test_the_pyramid_holds_every_second_label(self, tmp_path: Path) -> None:
        shape = (9, 700, 900)
        path = self.made(tmp_path, shape, "ZYX")
        metadata = json.loads((path / "labels" / "cells" / "zarr.json").read_text())["attributes"]["ome"]
        levels = metadata["multiscales"][0]["datasets"]
        assert [level["path"] for level in levels] == ["0", "1", "2"]
        for i, level in enumerate(levels):
            assert level["coordinateTransformations"][0]["scale"] == [2.0 * 2**i, 0.5 * 2**i, 0.25 * 2**i]
            with open_source(path, dataset=f"labels/cells/{i}", axes="ZYX") as source:
                np.testing.assert_array_equal(
                    source.read(Region.whole(source.shape)), labels(shape)[:: 2**i, :: 2**i, :: 2**i]
                )

    def test_empty_chunks_are_written_so_that_a_lost_one_shows(self, tmp_path: Path) -> None:
        create_sink(self.path(tmp_path), (2100, 1100), "YX").close()
        with open_source(self.path(tmp_path)) as source:
            assert source.missing_chunks() == 0
        lost = next((self.path(tmp_path) / "labels" / "cells" / "0" / "c").rglob("1/0"))
        lost.unlink()
        with open_source(self.path(tmp_path)) as source:
            assert source.missing_chunks() == 1


def test_memory_keeps_labels_without_copying_a_whole_write() -> None:
    whole = labels((6, 7))
    sink = create_sink(None, (6, 7), "YX")
    assert isinstance(sink, MemorySink)
    sink.write(Region.whole((6, 7)), whole)
    assert sink.array is whole
    parts = create_sink(None, (6, 7), "YX")
    assert isinstance(parts, MemorySink)
    for region in blocks((6, 7), (2, 3)):
        parts.write(region, whole[region.slices])
    np.testing.assert_array_equal(parts.array, whole)


def test_wrong_names_and_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.ome\.zarr"):
        create_sink(tmp_path / "a.png", (4, 5), "YX")
    for shape, axes, voxel in [
        ((4, 5), "XY", None),
        ((4, 5), "ZYX", None),
        ((0, 5), "YX", None),
        ((4, 5), "YX", (1.0,)),
    ]:
        with pytest.raises(ValueError, match="expected one"):
            create_sink(tmp_path / "a.tif", shape, axes, voxel)
    with pytest.raises(ValueError, match="unsigned"):
        create_sink(tmp_path / "a.tif", (4, 5), "YX", dtype=np.float32)
    assert list(tmp_path.iterdir()) == []
