"""Damaged and lying files: each is opened right or refused in one line, never read as something else."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from cellengine.errors import InputError
from cellengine.geometry import Region
from cellengine.io import open_source
from cellengine.io.axes import Array

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 4096, (6, 50, 60)).astype(np.uint16)
RGB = np.kron(RNG.integers(0, 255, (13, 15, 3)), np.ones((4, 4, 1))).astype(np.uint8)

TIFFS: dict[str, Callable[[Path], None]] = {
    "ome": lambda p: tifffile.imwrite(p, STACK, ome=True, photometric="minisblack", metadata={"axes": "ZYX"}),
    "ome-deflate": lambda p: tifffile.imwrite(
        p, STACK, ome=True, photometric="minisblack", metadata={"axes": "ZYX"}, compression="zlib", predictor=True
    ),
    "ome-tiles": lambda p: tifffile.imwrite(
        p, STACK, ome=True, photometric="minisblack", metadata={"axes": "ZYX"}, compression="zlib", tile=(16, 16)
    ),
    "imagej": lambda p: tifffile.imwrite(p, STACK, imagej=True, metadata={"axes": "ZYX"}),
    "imagej-deflate": lambda p: tifffile.imwrite(p, STACK, imagej=True, metadata={"axes": "ZYX"}, compression="zlib"),
    "plain": lambda p: tifffile.imwrite(p, STACK[0]),
    "plain-lzw": lambda p: tifffile.imwrite(p, STACK[0], compression="lzw", rowsperstrip=7),
    "plain-stack": lambda p: tifffile.imwrite(p, STACK, photometric="minisblack", metadata=None),
    "shaped-stack-zstd": lambda p: tifffile.imwrite(p, STACK, photometric="minisblack", compression="zstd"),
    "shaped-contiguous": lambda p: tifffile.imwrite(p, STACK, photometric="minisblack", byteorder=">"),
    "bigtiff": lambda p: tifffile.imwrite(p, STACK[0], bigtiff=True, compression="zlib"),
}
PICTURES: dict[str, Callable[[Path], None]] = {
    "png": lambda p: Image.fromarray(RGB).save(p, format="png"),
    "deep-png": lambda p: Image.fromarray(STACK[0]).save(p, format="png"),
    "jpg": lambda p: Image.fromarray(RGB).save(p, format="jpeg"),
    "bmp": lambda p: Image.fromarray(RGB).save(p, format="bmp"),
}


def read_all(path: Path, axes: str | None = None) -> Array:
    with open_source(path, axes=axes) as source:
        return source.read(Region.whole(source.shape)).copy()


def outcome(path: Path, axes: str | None = None) -> Array | str:
    """The image, or the message of the only error that may come instead."""
    try:
        return read_all(path, axes)
    except InputError as error:
        return str(error)


def refused_or_equal(path: Path, axes: str | None, expected: Array) -> bool:
    """Whether the file is refused as it should be; fails when it reads as another image."""
    got = outcome(path, axes)
    if isinstance(got, str):
        assert got
        assert "\n" not in got
        return True
    np.testing.assert_array_equal(got, expected)
    return False


@pytest.mark.parametrize("kind", [*TIFFS, *PICTURES])
def test_a_file_cut_anywhere_is_never_read_as_something_else(tmp_path: Path, kind: str) -> None:
    suffix = ".tif" if kind in TIFFS else "." + kind.split("-")[-1]
    path, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    (TIFFS | PICTURES)[kind](path)
    axes = "ZYX" if "stack" in kind or kind == "shaped-contiguous" else None
    expected, data = read_all(path, axes), path.read_bytes()
    cuts = {len(data) * percent // 100 for percent in range(0, 100, 5)} | {1, 4, 8, 9, 15, 16, len(data) - 1}
    refused = 0
    for length in sorted(cuts):
        cut.write_bytes(data[:length])
        refused += refused_or_equal(cut, axes, expected)
    # what a cut takes off the very end may be padding or a closing mark, without which the pixels are all there
    assert refused >= len(cuts) - 1


@pytest.mark.parametrize("kind", [*TIFFS, *PICTURES])
def test_flipped_bytes_never_end_in_a_traceback(tmp_path: Path, kind: str) -> None:
    suffix = ".tif" if kind in TIFFS else "." + kind.split("-")[-1]
    path, bad = tmp_path / f"whole{suffix}", tmp_path / f"bad{suffix}"
    (TIFFS | PICTURES)[kind](path)
    data = path.read_bytes()
    rng = np.random.default_rng(len(data))
    for trial in range(60):
        changed = bytearray(data)
        where = rng.integers(0, len(data) if trial % 2 else min(len(data), 600), 3)
        for at, value in zip(where.tolist(), rng.integers(0, 256, 3).tolist(), strict=True):
            changed[at] = value
        bad.write_bytes(changed)
        got = outcome(bad)
        assert not isinstance(got, str) or "\n" not in got


def test_a_flipped_bit_in_deflated_pixels_is_found(tmp_path: Path) -> None:
    TIFFS["ome-deflate"](tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        at = tif.pages[3].dataoffsets[0] + 40
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[at] ^= 16
    (tmp_path / "a.tif").write_bytes(data)
    with open_source(tmp_path / "a.tif") as source:
        source.read(Region((0, 0, 0), (3, 50, 60)))
        with pytest.raises(InputError, match="cannot be read"):
            source.read(Region((3, 0, 0), (4, 50, 60)))


def claim(path: Path, height: int, width: int) -> None:
    """Rewrite the size that the first page of a TIFF claims, and nothing else."""
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages.first.tags
        tags["ImageWidth"].overwrite(width, dtype=4)
        tags["ImageLength"].overwrite(height, dtype=4)
        if "RowsPerStrip" in tags:
            tags["RowsPerStrip"].overwrite(height, dtype=4)


def bomb_png(path: Path) -> None:
    Image.new("L", (20, 20)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 200_000, 200_000)
    path.write_bytes(data)


def bomb_bmp(path: Path) -> None:
    Image.new("RGB", (20, 20)).save(path)
    data = bytearray(path.read_bytes())
    data[18:26] = struct.pack("<ii", 200_000, 200_000)
    path.write_bytes(data)


def bomb_jpeg(path: Path) -> None:
    Image.new("RGB", (20, 20)).save(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    path.write_bytes(data)


def bomb_tiff(**options: object) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        tifffile.imwrite(path, np.zeros((48, 48), np.uint8), metadata=None, **options)
        claim(path, 200_000, 200_000)

    return make


def bomb_absent_tiles(path: Path) -> None:
    tiles = iter([np.ones((16, 16), np.uint8), None])
    tifffile.imwrite(path, tiles, shape=(16, 32), dtype=np.uint8, tile=(16, 16), compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for tag, size in {
            "ImageWidth": 400_000,
            "ImageLength": 200_000,
            "TileWidth": 200_000,
            "TileLength": 200_000,
        }.items():
            tif.pages.first.tags[tag].overwrite(size, dtype=4)


def bomb_ome(path: Path) -> None:
    tifffile.imwrite(
        path, np.zeros((2, 48, 48), np.uint8), ome=True, photometric="minisblack", metadata={"axes": "ZYX"}
    )
    data = path.read_bytes().replace(b'SizeZ="2"', b'SizeZ="9"')
    path.write_bytes(data)


def bomb_imagej(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((20, 48, 48), np.uint8), imagej=True, metadata={"axes": "ZYX"})
    path.write_bytes(path.read_bytes().replace(b"slices=20", b"slices=99").replace(b"images=20", b"images=99"))


BOMBS = {
    "plain.tif": bomb_tiff(),
    "deflate.tif": bomb_tiff(compression="zlib"),
    "zstd.tif": bomb_tiff(compression="zstd"),
    "lzw.tif": bomb_tiff(compression="lzw"),
    "packbits.tif": bomb_tiff(compression="packbits"),
    "tiles.tif": bomb_tiff(compression="zlib", tile=(16, 16)),
    "big.tif": bomb_tiff(bigtiff=True),
    "absent.tif": bomb_absent_tiles,
    "ome.ome.tif": bomb_ome,
    "imagej.tif": bomb_imagej,
    "a.png": bomb_png,
    "a.bmp": bomb_bmp,
    "a.jpg": bomb_jpeg,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_claims_much_is_refused_before_anything_is_allocated(tmp_path: Path, name: str) -> None:
    BOMBS[name](tmp_path / name)
    assert (tmp_path / name).stat().st_size < 100_000
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        with pytest.raises(InputError):
            open_source(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - begin < 5


def test_a_directory_that_points_to_itself_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0], metadata=None)
    data = bytearray(path.read_bytes())
    first = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[first : first + 2])[0]
    data[first + 2 + 12 * entries :][:4] = b""
    data[first + 2 + 12 * entries : first + 6 + 12 * entries] = struct.pack("<I", first)
    path.write_bytes(data)
    with pytest.raises(InputError, match="circle"):
        open_source(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_damaged_zarr_chunk_is_found(tmp_path: Path, zarr_format: int) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(64, 64), chunks=(32, 32), dtype="u2", zarr_format=zarr_format)
    array[...] = STACK.ravel()[:4096].reshape(64, 64)
    chunk = tmp_path / "a.zarr" / ("c/1/0" if zarr_format == 3 else "1.0")
    chunk.write_bytes(chunk.read_bytes()[:50])
    with open_source(tmp_path / "a.zarr") as source:
        source.read(Region((0, 0), (32, 64)))
        for region in (Region((40, 0), (50, 10)), Region.whole((64, 64))):
            with pytest.raises(InputError, match="cannot be read"):
                source.read(region)


def test_zarr_metadata_that_are_no_metadata_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a.ome.zarr"
    zarr.open_group(folder, mode="w", zarr_format=2)
    for text in ("{", "[]", '{"multiscales": [{}]}', '{"multiscales": [{"datasets": [{"path": "9"}]}]}', "{}"):
        (folder / ".zattrs").write_text(text)
        with pytest.raises(InputError):
            open_source(folder)


def test_a_cut_hdf5_file_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=STACK, compression="gzip")
    expected, data = read_all(tmp_path / "a.h5", "ZYX"), (tmp_path / "a.h5").read_bytes()
    for percent in range(5, 100, 5):
        (tmp_path / "cut.h5").write_bytes(data[: len(data) * percent // 100])
        assert refused_or_equal(tmp_path / "cut.h5", "ZYX", expected)


def test_a_file_that_shrinks_after_opening_is_an_error_not_a_crash(tmp_path: Path) -> None:
    TIFFS["ome"](tmp_path / "a.tif")
    with open_source(tmp_path / "a.tif") as source:
        with (tmp_path / "a.tif").open("r+b") as file:
            file.truncate(20_000)
        with pytest.raises(InputError, match="ends at byte"):
            source.read(Region.whole(source.shape))
