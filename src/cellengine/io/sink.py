"""Where label images go: the protocol, and what all writers share. A final name appears only when a sink is closed."""

from __future__ import annotations

import errno
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, cast, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike

from cellengine.errors import DiskFull, ResourceError, UsageError
from cellengine.geometry import Region
from cellengine.io.axes import AXES, Array

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_ROOMS = {".ome.zarr": "zarr_sink", ".zarr": "zarr_sink", ".tif": "tiff_sink", ".tiff": "tiff_sink"}
"""suffix -> module of this package that writes it; imported on use, because zarr alone takes half a second to load"""


@runtime_checkable
class LabelSink(Protocol):
    """A label image that is written region by region; what is never written is 0, background."""

    @property
    def shape(self) -> tuple[int, ...]:
        """One length an axis."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """An unsigned integer type."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """Regions that are multiples of this are written fastest, and by several threads side by side."""

    def write(self, region: Region, array: Array) -> None:
        """Store `array` at `region`, which lies inside the image. Any thread may call it; regions must not overlap
        between threads. The first write of the whole image goes straight through, without scratch files.

        Raises ResourceError when the disk is full or not writable.
        """

    def close(self) -> None:
        """Finish: only now the file or folder appears under its final name, replacing an older one."""

    def abort(self) -> None:
        """Remove everything written; no file is left. Does nothing after `close`."""

    def __enter__(self) -> Self:
        """The sink itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, or abort when an error passes through."""


class _Closable(Protocol):
    def close(self) -> None: ...


class _Room(Protocol):
    def create(
        self,
        path: Path,
        shape: tuple[int, ...],
        axes: str,
        voxel_size_um: tuple[float, ...] | None,
        dtype: np.dtype[np.generic],
    ) -> LabelSink: ...


def create_sink(
    path: str | os.PathLike[str] | None,
    shape: Sequence[int],
    axes: str,
    voxel_size_um: Sequence[float] | None = None,
    dtype: DTypeLike = np.uint32,
) -> LabelSink:
    """A sink for a label image of `shape`, by the suffix of `path`; None keeps it in memory (`MemorySink.array`).

    `.tif`, `.tiff`: deflated OME-TIFF, BigTIFF above 4 GB. `.ome.zarr`, `.zarr`: OME-Zarr 0.5 with a pyramid.
    `axes` is a subsequence of TCZYX with Y and X; `voxel_size_um` has one entry a spatial axis in Z, Y, X order.

    Raises UsageError for another suffix, ResourceError when the folder cannot be written.
    """
    kind, size = np.dtype(dtype), tuple(int(n) for n in shape)
    spacing = None if voxel_size_um is None else tuple(float(v) for v in voxel_size_um)
    _check(size, axes, spacing, kind)
    if path is None:
        return MemorySink(size, kind)
    path = Path(path)
    suffix = next((s for s in _ROOMS if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise UsageError(f"{path}: label images are written as {', '.join(_ROOMS)}; the name ends in {path.suffix!r}.")
    room = cast(_Room, import_module(f"cellengine.io.{_ROOMS[suffix]}"))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return room.create(path, size, axes, spacing, kind)


def _check(
    shape: tuple[int, ...], axes: str, voxel_size_um: tuple[float, ...] | None, dtype: np.dtype[np.generic]
) -> None:
    in_order = axes == "".join(a for a in AXES if a in axes) and {"Y", "X"} <= set(axes)
    if not in_order or len(shape) != len(axes) or 0 in shape:
        raise ValueError(f"shape {shape} with axes {axes!r}: expected one positive length for each of a part of {AXES}")
    if voxel_size_um is not None and len(voxel_size_um) != sum(a in "ZYX" for a in axes):
        raise ValueError(f"voxel size {voxel_size_um} for axes {axes!r}: expected one number a spatial axis")
    if dtype.kind != "u":
        raise ValueError(f"labels of type {dtype}: expected an unsigned integer type")


class Whole(ABC):
    """What is written whole or not at all: an error that passes through its `with`, or comes of closing it, aborts."""

    @abstractmethod
    def close(self) -> None:
        """Finish: only now it appears under its final name, replacing an older one."""

    @abstractmethod
    def abort(self) -> None:
        """Leave nothing behind. Does nothing after `close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise


class WholeFile(Whole):
    """One file that is written in pieces; a subclass opens it as `_file` under the name `_partial`."""

    _file: _Closable

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._partial = partial_name(self.path)
        self._done = False
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Give the file its name, when it is on disk. ResourceError when there is no room."""
        if not self._done:
            with writing(self.path):
                self._file.close()
                with self._partial.open("rb+") as file:
                    os.fsync(file.fileno())
                self._partial.replace(self.path)
            self._done = True

    def abort(self) -> None:
        """Leave no file behind. Does nothing after `close`."""
        if not self._done:
            self._done = True
            with suppress(OSError, RuntimeError):  # a full disk complains once more about what was not written yet
                self._file.close()
            remove(self._partial)


class BaseSink(Whole):
    """The part of a sink that does not depend on the format."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def _checked(self, region: Region, array: Array) -> Array:
        """`array` in the sink's type; ValueError when it does not fit the region, or the region not the image."""
        if not Region.whole(self.shape).contains(region) or array.shape != region.shape:
            raise ValueError(f"an array of {array.shape} for {region} in a label image of {self.shape}")
        return array.astype(self.dtype, copy=False)


class MemorySink(BaseSink):
    """Labels in memory."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self.shape, self.dtype, self.chunks = shape, dtype, shape
        self._array: Array | None = None

    @property
    def array(self) -> Array:
        """The labels; zeros where nothing was written."""
        if self._array is None:
            self._array = np.zeros(self.shape, self.dtype)
        return self._array

    def write(self, region: Region, array: Array) -> None:
        """See `LabelSink.write`; an array of the whole image is kept, not copied."""
        array = self._checked(region, array)
        if self._array is None and array.shape == self.shape:
            self._array = array
        else:
            self.array[region.slices] = array

    def close(self) -> None:
        """Nothing is left to do: the labels are in `array`."""

    def abort(self) -> None:
        """Forget the labels."""
        self._array = None


def partial_name(path: Path, what: str = "partial") -> Path:
    """The name beside `path` under which it is being written: hidden, and on the same file system."""
    return path.with_name(f".{path.name}.{what}")


def remove(path: Path) -> None:
    """Remove a file or a folder with all its contents, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def to_disk(paths: Iterable[Path], below: Path) -> None:
    """Return when files, or all files in folders, and their names in the folders from `below` on are on the disk.

    Raises ResourceError when the disk cannot take them.
    """
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else (path,))]
    folders = {parent for file in files for parent in file.parents if parent.is_relative_to(below)}
    # systems without os.O_DIRECTORY keep names by themselves, and open no folders
    names = sorted(folders) if hasattr(os, "O_DIRECTORY") else []
    with writing(below):
        for path in [*(file for file in files if file.is_file()), *names]:
            opened = os.open(path, os.O_RDONLY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says against writing `path` into a one-line ResourceError."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFull(f"{path}: the disk is full; free some space and run the same command again.") from error
        raise ResourceError(f"{path}: cannot be written ({error.strerror or error}); choose another output.") from error
