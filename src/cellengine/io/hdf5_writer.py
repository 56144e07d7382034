"""Several images in one HDF5 file, written box by box; the file has its name only when it is complete."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np
from numpy.typing import DTypeLike

from cellengine.geometry import Region
from cellengine.io.axes import Array
from cellengine.io.sink import partial_name, remove, writing

_CHUNK = {2: (256, 256), 3: (32, 64, 64)}
"""voxels of a chunk: 64 k and 128 k, so that random patches read little that they do not need"""
_LEVEL = 4
"""of gzip, after the bytes were shuffled: what every HDF5 library can read"""


class Hdf5Writer:
    """An HDF5 file of images over the same voxels: chunked, compressed, with names of axes and voxel size.

    Images are read back by `open_source(path, dataset=name)`. Memory: one chunk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: Sequence[int],
        axes: str,
        voxel_size_um: Sequence[float] | None = None,
    ) -> None:
        self.path, self.shape, self.axes = Path(path), tuple(int(n) for n in shape), axes
        self.voxel_size_um = voxel_size_um
        self._partial = partial_name(self.path)
        self._done = False
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(self._partial, "w")

    def create(self, name: str, dtype: DTypeLike, **attributes: str) -> None:
        """Add an image of zeros; `attributes` say what its values mean."""
        spatial = "".join(a for a in self.axes if a in "ZYX")
        side = dict(zip(spatial, _CHUNK[len(spatial)], strict=True))
        chunks = tuple(min(side.get(a, 1), n) for a, n in zip(self.axes, self.shape, strict=True))
        with writing(self.path):
            image = self._file.create_dataset(
                name, self.shape, dtype, chunks=chunks, compression="gzip", compression_opts=_LEVEL, shuffle=True
            )
            for dimension, axis in zip(image.dims, self.axes, strict=True):
                dimension.label = axis.lower()
            if self.voxel_size_um is not None:
                image.attrs["element_size_um"] = np.asarray(self.voxel_size_um, float)
            image.attrs.update(attributes)

    def write(self, name: str, region: Region, array: Array) -> None:
        """Store `array` at `region` of the image `name`; values are kept, a type that cannot hold them is an error."""
        image = self._file[name]
        if array.shape != region.shape or not np.can_cast(array.dtype, image.dtype, "same_kind"):
            raise ValueError(f"an array {array.shape} {array.dtype} for {region} of {name} {image.dtype}")
        with writing(self.path):
            image[region.slices] = array

    def close(self) -> None:
        """Give the file its name."""
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
