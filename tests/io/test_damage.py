"""A bit flipped, or the end cut off, at every 5 % of a file: what each format can notice, and what it never does.

    format                     a flip in the pixels                        a file that is cut
    PNG                        refused: a checksum a chunk                 refused
    TIFF, deflate              refused: a checksum a strip or tile         refused
    TIFF, raw, LZW; BMP; JPEG  other pixels: there is nothing to tell by   refused
    OME-Zarr, crc32c           refused: a checksum a chunk                 refused
    OME-Zarr, zstd alone       refused, or other pixels                    refused
    HDF5, gzip or fletcher32   refused: a checksum a chunk                 refused
    HDF5, raw                  other pixels                                refused

What a file says of itself (size, type, axes) has a checksum in PNG only: a flip there may open as another picture, or
be refused. Nothing ends in a traceback, and what is refused is refused in one line. A chunk that is missing as a whole
is counted (`missing_chunks`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
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

SHARES = [percent / 100 for percent in range(0, 100, 5)]
RNG = np.random.default_rng(3)
STACK = np.kron(RNG.integers(0, 900, (6, 25, 30)), np.ones((1, 2, 2))).astype(np.uint16)
STACK += RNG.integers(0, 8, STACK.shape).astype(np.uint16)
AXES = [{"name": axis, "type": "space"} for axis in "zyx"]

Span = tuple[Path, int, int]
"""bytes of a file: from, to"""


def tiff(**options: object) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(
        path, STACK, ome=True, photometric="minisblack", metadata={"axes": "ZYX"}, **options
    )


def tiff_pixels(path: Path) -> list[Span]:
    with tifffile.TiffFile(path) as tif:
        return [
            (path, at, at + count)
            for page in tif.pages
            for at, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]


def ome_zarr(codecs: list[object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        root = zarr.open_group(path, mode="w", zarr_format=3)
        stored = root.create_array("0", shape=STACK.shape, chunks=(2, 25, 30), dtype="u2", compressors=codecs)
        stored[...] = STACK
        scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
        datasets = [{"path": "0", "coordinateTransformations": scale}]
        root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": AXES, "datasets": datasets}]}

    return write


def zarr_pixels(path: Path) -> list[Span]:
    return [(file, 0, file.stat().st_size) for file in path.rglob("c/*/*/*")]


def hdf5(**options: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("raw", data=STACK, chunks=(2, 25, 30), **options).attrs["element_size_um"] = (1, 1, 1)

    return write


def hdf5_pixels(path: Path) -> list[Span]:
    with h5py.File(path) as file:
        stored = file["raw"].id
        chunks = [stored.get_chunk_info(i) for i in range(stored.get_num_chunks())]
    return [(path, chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks]


def everything(path: Path) -> list[Span]:
    return [(path, 0, path.stat().st_size)]


def nothing(path: Path) -> list[Span]:
    return []


@dataclass(frozen=True)
class Format:
    """How a file is written, and the bytes in which it notices every change."""

    name: str
    write: Callable[[Path], None]
    checked: Callable[[Path], list[Span]]


FORMATS = {
    "png": Format("a.png", lambda path: Image.fromarray(STACK[0]).save(path), everything),
    "tiff deflate": Format("a.ome.tif", tiff(compression="zlib", predictor=True), tiff_pixels),
    "tiff deflate tiles": Format("a.ome.tif", tiff(compression="zlib", tile=(16, 16)), tiff_pixels),
    "tiff lzw": Format("a.ome.tif", tiff(compression="lzw"), nothing),
    "tiff raw": Format("a.ome.tif", tiff(), nothing),
    "zarr crc": Format("a.ome.zarr", ome_zarr([zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]), zarr_pixels),
    "zarr": Format("a.ome.zarr", ome_zarr([zarr.codecs.ZstdCodec()]), nothing),
    "hdf5 gzip": Format("a.h5", hdf5(compression="gzip"), hdf5_pixels),
    "hdf5 fletcher": Format("a.h5", hdf5(fletcher32=True), hdf5_pixels),
    "hdf5 raw": Format("a.h5", hdf5(), nothing),
    "bmp": Format("a.bmp", lambda path: Image.fromarray(STACK[0].astype(np.uint8)).save(path), nothing),
    "jpeg": Format("a.jpg", lambda path: Image.fromarray(STACK[0].astype(np.uint8)).save(path), nothing),
}


def read(path: Path, shape: tuple[int, ...] | None = None) -> Array | None:
    """The picture, read in parts as the engine does; None when it opens with another shape than `shape`."""
    with open_source(path) as source:
        if shape is not None and source.shape != shape:
            return None
        out = np.zeros(source.shape, source.dtype)
        for piece in Region.whole(source.shape).pieces(out.size // 5):
            out[piece.slices] = source.read(piece)
        return out


def outcome(path: Path, shape: tuple[int, ...]) -> Array | str | None:
    """What is read, or the message of the only error that may come instead."""
    try:
        return read(path, shape)
    except InputError as error:
        return str(error)


def files_of(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def at_share(path: Path, share: float) -> tuple[Path, int]:
    """The file, and the byte in it, at a share of all bytes."""
    files = files_of(path)
    at = int(share * sum(f.stat().st_size for f in files))
    for file in files:
        if at < file.stat().st_size:
            return file, at
        at -= file.stat().st_size
    raise AssertionError("a share is below 1")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_flipped_bit(tmp_path: Path, kind: str) -> None:
    form = FORMATS[kind]
    whole, bad = tmp_path / "whole" / form.name, tmp_path / "bad" / form.name
    whole.parent.mkdir()
    form.write(whole)
    expected = read(whole)
    assert expected is not None
    refused = 0
    for number, share in enumerate(SHARES):
        shutil.rmtree(bad.parent, ignore_errors=True)
        shutil.copytree(whole.parent, bad.parent)
        file, at = at_share(bad, share)
        is_checked = any(span[0] == file and span[1] <= at < span[2] for span in form.checked(bad))
        data = bytearray(file.read_bytes())
        data[at] ^= 1 << number % 8
        file.write_bytes(data)
        found = outcome(bad, expected.shape)
        if isinstance(found, str):
            assert "\n" not in found
            refused += 1
        elif is_checked:
            assert found is not None, f"{kind}: another shape after a flip at byte {at} of {file.name}"
            np.testing.assert_array_equal(found, expected, f"{kind}: byte {at} of {file.name}")
    assert refused or form.checked is nothing


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if "zarr" in kind or "hdf5" in kind])
def test_a_file_that_is_cut(tmp_path: Path, kind: str) -> None:
    """TIFF and pictures are cut in `test_faults`."""
    form = FORMATS[kind]
    whole, bad = tmp_path / "whole" / form.name, tmp_path / "bad" / form.name
    whole.parent.mkdir()
    form.write(whole)
    expected = read(whole)
    for share in SHARES:
        shutil.rmtree(bad.parent, ignore_errors=True)
        shutil.copytree(whole.parent, bad.parent)
        file, at = at_share(bad, share)
        file.write_bytes(file.read_bytes()[:at])
        with pytest.raises(InputError) as refused:
            read(bad)
        assert "\n" not in str(refused.value)
    assert expected is not None


def test_a_chunk_that_is_missing_is_counted(tmp_path: Path) -> None:
    for kind in ("zarr", "zarr crc"):
        path = tmp_path / f"{kind[-3:]}.ome.zarr"
        FORMATS[kind].write(path)
        (path / "0/c/1/0/1").unlink()
        with open_source(path) as source:
            assert source.missing_chunks() == 1
            assert not source.read(Region((2, 0, 30), (4, 25, 60))).any()
