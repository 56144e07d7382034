"""HDF5 and MATLAB 7.3 files as sources. Chunks are cached by the HDF5 library itself."""

from __future__ import annotations

import json
from math import ceil, prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cellengine.errors import InputError
from cellengine.io.axes import AXES, Array, Layout, name_dimensions, voxel_size
from cellengine.io.source import BaseSource, decoding

_UNNAMED = "?"
_MATLAB_NUMBERS = (
    b"double",
    b"single",
    b"logical",
    *(b"%sint%d" % (u, n) for u in (b"", b"u") for n in (8, 16, 32, 64)),
)


def open_image(path: Path, axes: str | None, dataset: str | None, cache_bytes: int) -> Hdf5Source:
    """Open the HDF5 or MATLAB file at `path`; see `cellengine.io.open_source`."""
    return Hdf5Source(path, axes=axes, dataset=dataset, cache_bytes=cache_bytes)


class Hdf5Source(BaseSource):
    """A dataset of an HDF5 file: the one named, or the only one of numbers in two or more dimensions.

    Axes come from `axistags` (vigra, ilastik), from dimension labels, or from an `element_size_um` of as many numbers
    as there are dimensions (Z, Y, X); a 2D dataset is YX; otherwise they have to be given.

    MATLAB stores arrays with the dimensions reversed. Its variables are seen as MATLAB shows them, so `axes` names
    rows, columns, pages in this order: an image stack of size (height, width, slices) is YXZ.
    """

    def __init__(self, path: Path, *, axes: str | None, dataset: str | None, cache_bytes: int) -> None:
        with decoding(path.name):
            _check_format(path)
            self._file = h5py.File(path, "r", rdcc_nbytes=cache_bytes)
            try:
                self._array = _pick(self._file, path.name, dataset)
                layout = _layout(self._array, path.name, axes)
                sizes = _sizes_um(self._array)
                super().__init__(path.name, layout, self._array.dtype, voxel_size_um=voxel_size(layout.axes, sizes))
            except BaseException:
                self._file.close()
                raise

    def _load(self, stored: tuple[slice, ...]) -> Array:
        return np.asarray(self._array[stored])

    def missing_chunks(self) -> int:
        """Chunks that were never written; they read as the fill value."""
        if self._array.chunks is None:
            return int(self._array.id.get_storage_size() == 0)
        expected = prod(ceil(n / c) for n, c in zip(self._array.shape, self._array.chunks, strict=True))
        return int(expected - self._array.id.get_num_chunks())

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._file.close()


def _check_format(path: Path) -> None:
    """InputError for MATLAB files from before version 7.3, which are no HDF5."""
    with path.open("rb") as file:
        start = file.read(128)
    if start.startswith(b"MATLAB") and b"7.3" not in start[:32]:
        raise InputError(f"{path.name}: a MATLAB file from before version 7.3; save it with the option -v7.3.")


def _is_image(item: Any) -> bool:
    if not isinstance(item, h5py.Dataset) or item.ndim < 2 or item.dtype.kind not in "buif" or 0 in item.shape:
        return False
    return item.attrs.get("MATLAB_class", b"double") in _MATLAB_NUMBERS


def _pick(file: h5py.File, name: str, dataset: str | None) -> h5py.Dataset:
    """The dataset asked for, or the only image; InputError with the list otherwise."""
    images: list[str] = []
    file.visititems(lambda key, item: images.append(key) if _is_image(item) else None)
    chosen = [key for key in images if dataset is None or key == dataset.strip("/")]
    if len(chosen) == 1:
        return file[chosen[0]]
    listed = ", ".join(f"{key} {file[key].shape}" for key in images) or "none of numbers in two or more dimensions"
    wanted = f"{dataset!r} is not among its datasets" if dataset is not None else "expected one dataset"
    raise InputError(f"{name}: {wanted}; choose with --dataset NAME: {listed}.")


def _layout(array: h5py.Dataset, name: str, axes: str | None) -> Layout:
    if "MATLAB_class" in array.attrs:
        shown = array.shape[::-1]
        found = ["Y", "X"] if array.ndim == 2 else [_UNNAMED] * array.ndim
        return Layout.of(array.shape, name_dimensions(name, shown, found, axes)[::-1])
    return Layout.of(array.shape, name_dimensions(name, array.shape, _named(array), axes))


def _named(array: h5py.Dataset) -> list[str]:
    """What the file says of each dimension."""
    if "axistags" in array.attrs:
        labels = [str(tag["key"]) for tag in json.loads(array.attrs["axistags"])["axes"]]
    else:
        labels = [dimension.label for dimension in array.dims]
    names = [label.upper() if label.upper() in AXES and label else _UNNAMED for label in labels]
    if all(n == _UNNAMED for n in names) and len(names) == array.ndim:
        spatial = np.size(array.attrs.get("element_size_um", ())) == array.ndim == 3
        return list("ZYX") if spatial else list("YX") if array.ndim == 2 else names
    return names if len(names) == array.ndim else [_UNNAMED] * array.ndim


def _sizes_um(array: h5py.Dataset) -> dict[str, float | None]:
    """The attribute `element_size_um`: Z, Y, X, of which a 2D image uses the last two."""
    sizes = np.ravel(array.attrs.get("element_size_um", ())).tolist()
    return dict(zip("ZYX"[-len(sizes) :], sizes, strict=True)) if 2 <= len(sizes) <= 3 else {}
