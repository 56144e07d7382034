"""Label images as OME-Zarr 0.5 with a pyramid. Reading is in `zarr`.

The folder is an image group and holds the labels once, where the NGFF specification wants them:

    stem.labels.ome.zarr/            an image whose pyramid is that of the labels, so that any viewer opens the folder
        labels/                      lists "cells"
            cells/0, cells/1, ...    the label image: full size, half, quarter ... in Z, Y and X
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from cellengine.geometry import Cells, Region
from cellengine.io.axes import Array
from cellengine.io.sink import BaseSink, partial_name, remove, writing
from cellengine.io.zarr import limit_codec_threads
from cellengine.ops.spare import SpareMemory

_NAME = "cells"
_VERSION = "0.5"
_CHUNK = {2: (1024, 1024), 3: (64, 256, 256)}
"""voxels of a chunk along the spatial axes: 4 MB and 16 MB as uint32; one time point, one channel"""
_LEVEL = 1
"""of Zstandard; labels are runs of equal numbers, which shuffling their bytes (Blosc) only breaks up"""
_SMALLEST_LEVEL = 256
"""the pyramid ends when Y and X are at most this"""


def create(
    path: Path, shape: tuple[int, ...], axes: str, voxel_size_um: tuple[float, ...] | None, dtype: np.dtype[np.generic]
) -> ZarrSink:
    """A sink that writes the OME-Zarr folder `path`; see `cellengine.io.create_sink`."""
    return ZarrSink(path, shape, axes, voxel_size_um, dtype)


class ZarrSink(BaseSink):
    """A label image in an OME-Zarr folder.

    Chunks are not sharded and empty ones are written too, so that a missing chunk means a lost one. Writes of whole
    chunks go side by side; others wait for each other. The pyramid takes every second voxel along Z, Y and X (labels
    have no mean), and is made chunk by chunk when the sink is closed.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        axes: str,
        voxel_size_um: tuple[float, ...] | None,
        dtype: np.dtype[np.generic],
    ) -> None:
        self.path, self.shape, self.axes, self.voxel_size_um, self.dtype = path, shape, axes, voxel_size_um, dtype
        spatial = "".join(a for a in axes if a in "ZYX")
        size = dict(zip(spatial, _CHUNK[len(spatial)], strict=True))
        self.chunks = tuple(min(size.get(a, 1), n) for a, n in zip(axes, shape, strict=True))
        self._partial = partial_name(path)
        self._lock = Lock()
        self._closed = False
        limit_codec_threads()
        remove(self._partial)
        self._root = zarr.open_group(self._partial, mode="w", zarr_format=3)
        self._cells = self._root.create_group(f"labels/{_NAME}")
        self._full = self._level(0, shape)
        self._touched = np.zeros([-(-n // c) for n, c in zip(shape, self.chunks, strict=True)], bool)

    def write(self, region: Region, array: Array) -> None:
        """See `LabelSink.write`."""
        array = self._checked(region, array)
        if self._closed:
            raise ValueError(f"{self.path.name} is complete already")
        whole_chunks = all(
            a % c == 0 and (b % c == 0 or b == n)
            for a, b, c, n in zip(region.start, region.stop, self.chunks, self.shape, strict=True)
        )
        touched = tuple(
            slice(a // c, -(-b // c)) for a, b, c in zip(region.start, region.stop, self.chunks, strict=True)
        )
        with writing(self.path):
            if whole_chunks:
                self._full[region.slices] = array
            else:
                with self._lock:
                    self._full[region.slices] = array
        self._touched[touched] = True

    def close(self) -> None:
        """Write the chunks nobody wrote, the pyramid and the metadata, and give the folder its name."""
        if self._closed:
            return
        with writing(self.path):
            for corner in np.argwhere(~self._touched).tolist():
                box = _box(corner, self.chunks, self.shape)
                self._full[box] = np.zeros([s.stop - s.start for s in box], self.dtype)
            factors = self._pyramid()
            self._describe(factors)
            old = partial_name(self.path, "old")
            remove(old)
            if self.path.exists():
                self.path.replace(old)
            self._partial.replace(self.path)
            remove(old)
            self._closed = True

    def abort(self) -> None:
        """See `LabelSink.abort`."""
        if not self._closed:
            self._closed = True
            remove(self._partial)

    def _level(self, number: int, shape: tuple[int, ...]) -> zarr.Array[Any]:
        return self._cells.create_array(
            str(number),
            shape=shape,
            chunks=tuple(min(c, n) for c, n in zip(self.chunks, shape, strict=True)),
            dtype=self.dtype,
            compressors=ZstdCodec(level=_LEVEL),
            fill_value=0,
            dimension_names=list(self.axes.lower()),
            config={"write_empty_chunks": True},
        )

    def _pyramid(self) -> list[tuple[int, ...]]:
        """Write the smaller levels, each from the one before; the factor of every level along every axis."""
        factors = [(1,) * len(self.shape)]
        finer, spare = self._full, SpareMemory()
        while max(finer.shape[-2:]) > _SMALLEST_LEVEL:
            step = tuple(2 if a in "ZYX" and n > 1 else 1 for a, n in zip(self.axes, finer.shape, strict=True))
            shape = tuple(-(-n // s) for n, s in zip(finer.shape, step, strict=True))
            level = self._level(len(factors), shape)
            # one after the other: each takes some 60 MB, and decoding and encoding have threads of their own
            for chunk in Cells(shape, level.chunks):
                _reduce(finer, level, step, spare, chunk)
            factors.append(tuple(f * s for f, s in zip(factors[-1], step, strict=True)))
            finer = level
        return factors

    def _describe(self, factors: list[tuple[int, ...]]) -> None:
        """The OME metadata of the image, of the list of labels, and of the label image."""
        size = dict(zip((a for a in self.axes if a in "ZYX"), self.voxel_size_um or (), strict=False))
        axes: list[dict[str, str]] = []
        for a in self.axes:
            kind = {"T": "time", "C": "channel"}.get(a, "space")
            axes.append({"name": a.lower(), "type": kind} | ({"unit": "micrometer"} if a in size else {}))

        def multiscales(prefix: str) -> list[dict[str, Any]]:
            datasets = []
            for number, factor in enumerate(factors):
                scale = [float(size.get(a, 1.0)) * f for a, f in zip(self.axes, factor, strict=True)]
                transformations = [{"type": "scale", "scale": scale}]
                datasets.append({"path": f"{prefix}{number}", "coordinateTransformations": transformations})
            return [{"name": _NAME, "axes": axes, "datasets": datasets, "type": "nearest"}]

        self._cells.attrs["ome"] = {
            "version": _VERSION,
            "multiscales": multiscales(""),
            "image-label": {"source": {"image": "../../"}},
        }
        self._root["labels"].attrs["ome"] = {"version": _VERSION, "labels": [_NAME]}
        self._root.attrs["ome"] = {"version": _VERSION, "multiscales": multiscales(f"labels/{_NAME}/")}


def _reduce(
    finer: zarr.Array[Any], level: zarr.Array[Any], step: tuple[int, ...], spare: SpareMemory, chunk: Region
) -> None:
    """Fill one chunk of a level from the finer one, of which no more than a chunk is held at a time."""
    out = np.empty(chunk.shape, level.dtype)
    stop = tuple(min(b * s, n) for b, s, n in zip(chunk.stop, step, finer.shape, strict=True))
    fine = Region(tuple(a * s for a, s in zip(chunk.start, step, strict=True)), stop)
    cells = Cells(finer.shape, finer.chunks)
    for number in cells.meeting(fine):
        part = cells.cell(number).intersect(fine)
        # the first voxel of a piece that is a multiple of the step
        first = tuple(-(-a // s) for a, s in zip(part.start, step, strict=True))
        taken = tuple(slice(f * s - a, None, s) for f, s, a in zip(first, step, part.start, strict=True))
        values = np.asarray(finer[part.slices])[taken]
        place = Region(first, tuple(f + n for f, n in zip(first, values.shape, strict=True)))
        out[place.relative_to(chunk)] = values
        spare.release()
    level[chunk.slices] = out


def _box(corner: tuple[int, ...] | list[int], chunks: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The voxels of the chunk with grid position `corner`."""
    return tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(corner, chunks, shape, strict=True))
