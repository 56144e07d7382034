"""Several images in one HDF5 file, written box by box; the file has its name only when it is complete."""

from __future__ import annotations

import os
from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import DTypeLike

from cellengine.geometry import Region
from cellengine.io.axes import Array
from cellengine.io.sink import WholeFile, writing

_CHUNK = {2: (256, 256), 3: (32, 64, 64)}
"""voxels of a chunk: 64 k and 128 k, so that random patches read little that they do not need"""
_LEVEL = 4
"""of gzip, after the bytes were shuffled: what every HDF5 library can read"""


class Hdf5Writer(WholeFile):
    """An HDF5 file of images over the same voxels: chunked, compressed, with names of axes and voxel size.

    Images are read back by `open_source(path, dataset=name)`. Memory: one chunk.
    """

    _file: h5py.File

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: Sequence[int],
        axes: str,
        voxel_size_um: Sequence[float] | None = None,
    ) -> None:
        super().__init__(path)
        self.shape, self.axes, self.voxel_size_um = tuple(int(n) for n in shape), axes, voxel_size_um
        with writing(self.path):
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
