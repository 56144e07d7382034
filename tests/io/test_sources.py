"""Every kind of source against one reference array: values, axes, voxel size, random regions, threads.

A format joins by inheriting `SourceConformance` and saying how a file of it is made, with another library's writer.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cellengine.errors import InputError
from cellengine.geometry import Region
from cellengine.io import ImageSource, MemorySource, open_source
from cellengine.io.axes import Array

LENGTHS = {"T": 2, "C": 3, "Z": 5, "Y": 67, "X": 83}
VOXEL = {"Z": 2.0, "Y": 0.5, "X": 0.25}


def reference(axes: str) -> Array:
    """Different at every voxel, and not to be confused with its transpose."""
    shape = [LENGTHS[a] for a in axes]
    return (np.arange(np.prod(shape)) * 7919 % 65521).astype(np.uint16).reshape(shape)


def sizes(axes: str) -> tuple[float, ...]:
    return tuple(VOXEL[a] for a in "ZYX" if a in axes)


class SourceConformance:
    axes_to_try: ClassVar[tuple[str, ...]] = ("YX", "CYX", "ZYX", "CZYX", "TZYX", "TCZYX")
    knows_axes = True
    knows_voxel_size = True

    def make(self, folder: Path, array: Array, axes: str) -> Path | Array:
        raise NotImplementedError

    def open(self, made: Path | Array, axes: str) -> ImageSource:
        return open_source(made, axes=None if self.knows_axes else axes, cache_bytes=20_000)

    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ImageSource]:
        folder, suite = tmp_path_factory.mktemp("source"), cls()
        return {axes: suite.open(suite.make(folder, reference(axes), axes), axes) for axes in cls.axes_to_try}

    def test_values_axes_type_and_voxel_size(self, opened: dict[str, ImageSource]) -> None:
        for axes, source in opened.items():
            expected = reference(axes)
            assert isinstance(source, ImageSource)
            assert (source.axes, source.shape, source.dtype) == (axes, expected.shape, expected.dtype)
            assert source.dtype.isnative
            assert not source.is_rgb
            assert source.missing_chunks() == 0
            assert source.voxel_size_um == (pytest.approx(sizes(axes)) if self.knows_voxel_size else None)
            got = source.read(Region.whole(source.shape))
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)

    def test_any_region_equals_the_slice(self, opened: dict[str, ImageSource]) -> None:
        @settings(max_examples=40, deadline=None)
        @given(st.data())
        def check(data: st.DataObject) -> None:
            axes = data.draw(st.sampled_from(self.axes_to_try))
            start = [data.draw(st.integers(0, n - 1)) for n in reference(axes).shape]
            stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, reference(axes).shape, strict=True)]
            region = Region(tuple(start), tuple(stop))
            np.testing.assert_array_equal(opened[axes].read(region), reference(axes)[region.slices])

        check()

    def test_threads_read_the_same_as_one(self, opened: dict[str, ImageSource]) -> None:
        axes = self.axes_to_try[-1]
        expected, source = reference(axes), opened[axes]
        lead = (slice(None),) * (len(axes) - 2)
        corners = [(y, x) for y in range(0, 60, 7) for x in range(0, 80, 9)] * 3

        def read(corner: tuple[int, int]) -> bool:
            y, x = corner
            region = Region((0,) * len(lead) + (y, x), (*expected.shape[:-2], min(y + 20, 67), min(x + 30, 83)))
            return np.array_equal(source.read(region), expected[(*lead, *region.slices[-2:])])

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, corners))

    def test_what_was_forgotten_is_read_again(self, opened: dict[str, ImageSource]) -> None:
        for axes, source in opened.items():
            corner = Region((0,) * len(axes), (1,) * len(axes))
            source.read(corner)
            source.forget()
            kept = getattr(source, "_cache", None)
            assert kept is None or kept.nbytes == 0
            np.testing.assert_array_equal(source.read(corner), reference(axes)[corner.slices])

    def test_regions_outside_are_refused(self, opened: dict[str, ImageSource]) -> None:
        axes = self.axes_to_try[0]
        shape = opened[axes].shape
        for region in (Region((-1,) * len(shape), shape), Region((0,) * len(shape), tuple(n + 1 for n in shape))):
            with pytest.raises(ValueError, match="not inside"):
                opened[axes].read(region)
        with pytest.raises(ValueError, match="not inside"):
            opened[axes].read(Region((0,), (1,)))

    def test_a_closed_source_is_not_read(self, tmp_path: Path) -> None:
        axes = self.axes_to_try[0]
        with self.open(self.make(tmp_path, reference(axes), axes), axes) as source:
            source.read(Region.whole(source.shape))
        with pytest.raises(ValueError, match="closed"):
            source.read(Region.whole(source.shape))

    def test_without_names_the_axes_are_asked_for(self, tmp_path: Path) -> None:
        axes = self.axes_to_try[-1]
        if self.knows_axes or len(axes) == 2:
            return
        made = self.make(tmp_path, reference(axes), axes)
        with pytest.raises(InputError, match=r"--axes [TCZYX]+"):
            open_source(made)
        with pytest.raises(InputError, match="does not fit"):
            open_source(made, axes="YX")


def ome_metadata(axes: str) -> dict[str, object]:
    units = {f"PhysicalSize{a}Unit": "µm" for a in "ZYX" if a in axes}
    return {"axes": axes, **{f"PhysicalSize{a}": VOXEL[a] for a in "ZYX" if a in axes}, **units}


class TestOmeTiff(SourceConformance):
    options: ClassVar[dict[str, object]] = {}

    def make(self, folder: Path, array: Array, axes: str) -> Path:
        path = folder / f"{axes}.ome.tif"
        tifffile.imwrite(path, array, photometric="minisblack", metadata=ome_metadata(axes), **self.options)
        return path


class TestOmeTiffTiledDeflate(TestOmeTiff):
    options: ClassVar[dict[str, object]] = {"tile": (16, 32), "compression": "zlib", "predictor": True}


class TestOmeTiffStripsLzwBigEndian(TestOmeTiff):
    options: ClassVar[dict[str, object]] = {"rowsperstrip": 10, "compression": "lzw", "byteorder": ">"}


class TestOmeTiffBigZstd(TestOmeTiff):
    options: ClassVar[dict[str, object]] = {"bigtiff": True, "compression": "zstd", "tile": (64, 64)}


class TestOmeTiffUncompressedTiles(TestOmeTiff):
    options: ClassVar[dict[str, object]] = {"tile": (32, 16)}


class TestOmeTiffPyramid(SourceConformance):
    axes_to_try = ("YX", "CYX", "ZYX")

    def make(self, folder: Path, array: Array, axes: str) -> Path:
        path = folder / f"{axes}.ome.tif"
        with tifffile.TiffWriter(path) as tif:
            options = {"photometric": "minisblack", "tile": (16, 16), "compression": "zlib"}
            tif.write(array, subifds=1, metadata=ome_metadata(axes), **options)
            tif.write(array[..., ::2, ::2], subfiletype=1, **options)
        return path


class TestOmeTiffInSeveralFiles(SourceConformance):
    axes_to_try = ("ZYX",)

    def make(self, folder: Path, array: Array, axes: str) -> Path:
        first = folder / "z0.ome.tif"
        names = [f"z{i}.ome.tif" for i in range(len(array))]
        tiffdata = "".join(
            f'<TiffData FirstZ="{i}" IFD="0" PlaneCount="1"><UUID FileName="{n}">urn:uuid:{i:032d}</UUID></TiffData>'
            for i, n in enumerate(names)
        )
        for i, (name, plane) in enumerate(zip(names, array, strict=True)):
            xml = (
                '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
                f'UUID="urn:uuid:{i:032d}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
                f'Type="uint16" SizeX="83" SizeY="67" SizeZ="5" SizeC="1" SizeT="1" PhysicalSizeX="0.25" '
                f'PhysicalSizeY="0.5" PhysicalSizeZ="2.0"><Channel ID="Channel:0"/>{tiffdata}</Pixels></Image></OME>'
            )
            tifffile.imwrite(folder / name, plane, description=xml, metadata=None, rowsperstrip=9, compression="zlib")
        return first

    def test_a_missing_file_of_the_set_is_named_by_the_count(self, tmp_path: Path) -> None:
        path = self.make(tmp_path, reference("ZYX"), "ZYX")
        (tmp_path / "z3.ome.tif").unlink()
        with pytest.raises(InputError, match="5 planes by its metadata, but 4"):
            open_source(path)


class TestImageJ(SourceConformance):
    axes_to_try = ("YX", "CYX", "ZYX", "CZYX", "TZYX", "TCZYX")
    options: ClassVar[dict[str, object]] = {}

    def make(self, folder: Path, array: Array, axes: str) -> Path:
        path = folder / f"{axes}.tif"
        order = "".join(a for a in "TZCYX" if a in axes)
        stored = array.transpose([axes.index(a) for a in order])
        metadata = {"axes": order, "unit": "micron", "spacing": VOXEL["Z"]}
        resolution = (1 / VOXEL["X"], 1 / VOXEL["Y"])
        tifffile.imwrite(path, stored, imagej=True, metadata=metadata, resolution=resolution, **self.options)
        return path


class TestImageJDeflate(TestImageJ):
    options: ClassVar[dict[str, object]] = {"compression": "zlib"}


class TestPlainTiff(SourceConformance):
    axes_to_try = ("YX", "TYX", "ZYX", "CZYX")
    knows_axes = False
    knows_voxel_size = False

    def make(self, folder: Path, array: Array, axes: str) -> Path:
        path = folder / f"{axes}.tif"
        tifffile.imwrite(path, array.reshape(-1, *array.shape[-2:]), photometric="minisblack", compression="zlib")
        if len(axes) == 4:
            tifffile.imwrite(path, array, photometric="minisblack")
        return path


class TestZarr2(SourceConformance):
    version, zarr_format = "0.4", 2

    def make(self, folder: Path, array: Array, axes: str) -> Path:
        path = folder / f"{axes}.ome.zarr"
        group = zarr.open_group(path, mode="w", zarr_format=self.zarr_format)
        for level in range(2):
            part = array[..., :: 2**level, :: 2**level]
            chunks = tuple(min(n, 20) for n in part.shape)
            group.create_array(str(level), shape=part.shape, dtype=part.dtype, chunks=chunks)[...] = part
        scale = [VOXEL.get(a, 1.0) for a in axes]
        kinds = {"T": {"type": "time"}, "C": {"type": "channel"}}
        named = [{"name": a.lower(), **kinds.get(a, {"type": "space", "unit": "micrometer"})} for a in axes]
        levels = [
            {
                "path": str(i),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [s * 2**i if a in "YX" else s for s, a in zip(scale, axes, strict=True)]}
                ],
            }
            for i in range(2)
        ]
        image = {"multiscales": [{"version": self.version, "axes": named, "datasets": levels}]}
        group.attrs.update(image if self.zarr_format == 2 else {"ome": {"version": self.version, **image}})
        return path


class TestZarr3(TestZarr2):
    version, zarr_format = "0.5", 3


class TestZarrArray(SourceConformance):
    axes_to_try = ("YX", "ZYX", "CZYX")
    knows_axes = False
    knows_voxel_size = False

    def make(self, folder: Path, array: Array, axes: str) -> Path:
        path = folder / f"{axes}.zarr"
        zarr.create_array(path, data=array, chunks=tuple(min(n, 16) for n in array.shape))
        return path


class TestHdf5(SourceConformance):
    axes_to_try = ("YX", "ZYX")

    def make(self, folder: Path, array: Array, axes: str) -> Path:
        path = folder / f"{axes}.h5"
        with h5py.File(path, "w") as file:
            item = file.create_dataset("group/raw", data=array, chunks=True, compression="gzip")
            item.attrs["element_size_um"] = sizes(axes)
            file["table"] = np.arange(5)
        return path


class TestHdf5AxisTags(SourceConformance):
    knows_voxel_size = False

    def make(self, folder: Path, array: Array, axes: str) -> Path:
        path = folder / f"{axes}.h5"
        with h5py.File(path, "w") as file:
            file["data"] = array
            file["data"].attrs["axistags"] = json.dumps({"axes": [{"key": a.lower()} for a in axes]})
        return path


class TestMatlab(SourceConformance):
    """MATLAB shows rows, columns, pages, and stores them in reverse: `axes` names what it shows."""

    axes_to_try = ("YX", "ZYX")
    knows_axes = False
    knows_voxel_size = False

    def make(self, folder: Path, array: Array, axes: str) -> Path:
        path = folder / f"{axes}.mat"
        with h5py.File(path, "w", userblock_size=512) as file:
            shown = array if axes == "YX" else np.moveaxis(array, 0, -1)
            file["stack"] = shown.T
            file["stack"].attrs["MATLAB_class"] = np.bytes_("uint16")
            file["note"] = np.array([[72, 105]], np.uint16)
            file["note"].attrs["MATLAB_class"] = np.bytes_("char")
        with path.open("r+b") as raw:
            raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
        return path

    def open(self, made: Path | Array, axes: str) -> ImageSource:
        return open_source(made, axes={"YX": "YX", "ZYX": "YXZ"}[axes])


class TestMemory(SourceConformance):
    def make(self, folder: Path, array: Array, axes: str) -> Array:
        return array

    def open(self, made: Path | Array, axes: str) -> ImageSource:
        assert isinstance(made, np.ndarray)
        return MemorySource(made, axes, voxel_size_um=sizes(axes))


class TestPng(SourceConformance):
    axes_to_try = ("YX",)
    knows_voxel_size = False

    def make(self, folder: Path, array: Array, axes: str) -> Path:
        path = folder / f"{axes}.png"
        Image.fromarray(array).save(path)
        return path


class TestCzi(SourceConformance):
    """Read through bioio, written by Zeiss's own library."""

    def make(self, folder: Path, array: Array, axes: str) -> Path:
        czi = pytest.importorskip("pylibCZIrw.czi", reason="CZI needs the extra 'formats'")
        path = folder / f"{axes}.czi"
        with czi.create_czi(str(path)) as file:
            for at in np.ndindex(array.shape[:-2]):
                plane = dict.fromkeys("TCZ", 0) | dict(zip(axes, at, strict=False))
                file.write(data=np.ascontiguousarray(array[at])[..., None], plane=plane)
            scales = {f"scale_{a.lower()}": VOXEL[a] * 1e-6 for a in "ZYX" if a in axes}
            file.write_metadata("reference", **scales)
        return path
