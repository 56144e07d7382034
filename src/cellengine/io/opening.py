"""Which reader opens which file."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from cellengine.errors import InputError, UsageError
from cellengine.io.axes import Array
from cellengine.io.memory import MemorySource
from cellengine.io.source import BaseSource, ImageSource

READERS = {
    ".tif": "tiff",
    ".tiff": "tiff",
    ".btf": "tiff",
    ".tf8": "tiff",
    ".stk": "tiff",
    ".lsm": "tiff",
    ".png": "pictures",
    ".jpg": "pictures",
    ".jpeg": "pictures",
    ".bmp": "pictures",
    ".zarr": "zarr",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".mat": "hdf5",
    ".czi": "bio",
    ".nd2": "bio",
    ".lif": "bio",
}
"""suffix -> module of this package that reads it; imported on use, because zarr alone takes half a second to load"""
_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
DEFAULT_CACHE_BYTES = 256 << 20


class _Room(Protocol):
    def open_image(self, path: Path, axes: str | None, dataset: str | None, cache_bytes: int) -> BaseSource: ...


def open_source(
    image: str | os.PathLike[str] | Array,
    *,
    axes: str | None = None,
    dataset: str | None = None,
    voxel_size_um: tuple[float, ...] | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> ImageSource:
    """Open a file, an OME-Zarr folder or an array as an image; nothing is decoded yet.

    `axes` names the dimensions (letters of TCZYX, in the order of the file, those of length 1 left out) where the
    file does not, or against what it says. `dataset` picks one of several images in a file: by name in HDF5, by name
    or number in TIFF, CZI, ND2 and LIF. `voxel_size_um`, one entry a spatial axis in Z, Y, X order, takes the place of
    what the file says. Readers of compressed formats keep at most `cache_bytes` of decoded pieces.

    Raises UsageError for a path that does not exist, InputError for anything that cannot be used as an image.
    """
    source = _open(image, axes, dataset, cache_bytes)
    if voxel_size_um is not None:
        spatial = "".join(a for a in source.axes if a in "ZYX")
        if len(voxel_size_um) != len(spatial):
            source.close()
            raise UsageError(
                f"{source.name}: a voxel size of {len(voxel_size_um)} numbers was given, its axes {source.axes} need "
                f"{len(spatial)}: --voxel-size {','.join(spatial.lower())} in um."
            )
        source.voxel_size_um = voxel_size_um
    return source


def _open(image: str | os.PathLike[str] | Array, axes: str | None, dataset: str | None, cache_bytes: int) -> BaseSource:
    if isinstance(image, np.ndarray):
        return MemorySource(image, axes)
    path = Path(os.fspath(image))
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder.")
    module = reader_of(path)
    if module is None:
        raise InputError(f"{path}: expected an OME-Zarr folder or a file ending in {', '.join(READERS)}.")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path.name}: the file is empty; copy it again from where it was made.")
    room = cast(_Room, import_module(f"cellengine.io.{module}"))
    return room.open_image(path, axes, dataset, cache_bytes)


def reader_of(path: Path) -> str | None:
    """The module that reads `path`, or None; a folder is one image when it holds Zarr metadata."""
    if path.is_dir():
        return "zarr" if any((path / name).is_file() for name in _ZARR_FILES) else None
    return READERS.get(path.suffix.lower())
