"""Label images as OME-TIFF: deflated strips, compressed on all cores, in bounded memory. Reading is in `tiff`."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from pathlib import Path
from threading import Lock
from typing import cast
from uuid import NAMESPACE_URL, uuid5

import imagecodecs
import numpy as np
import tifffile

from cellengine.geometry import Region
from cellengine.io.axes import Array
from cellengine.io.scratch import Scratch
from cellengine.io.sink import BaseSink, partial_name, remove, writing

_deflate = cast(Callable[..., bytes], imagecodecs.deflate_encode)
"""libdeflate, several times as fast as zlib; its stubs leave out arrays"""
_STRIP_BYTES = 1 << 20
_BAND_BYTES = 64 << 20
_LEVEL = 1
"""of deflate; label images are runs of equal numbers, which level 1 finds, and a predictor only breaks up"""
_CLASSIC_LIMIT = 2**32 - 2**25
"""above this many bytes of pixels the offsets of a classic TIFF may overflow; as in tifffile"""


def create(
    path: Path, shape: tuple[int, ...], axes: str, voxel_size_um: tuple[float, ...] | None, dtype: np.dtype[np.generic]
) -> TiffSink:
    """A sink that writes the TIFF `path`; see `cellengine.io.create_sink`."""
    return TiffSink(path, shape, axes, voxel_size_um, dtype)


class TiffSink(BaseSink):
    """An OME-TIFF of labels.

    The whole image in one write is compressed at once. Anything else goes to a scratch file beside the output, as
    large as the uncompressed image, and is compressed from there when the sink is closed. Memory is a few strips of
    1 MB, and in the second case 64 MB. The same labels give the same bytes.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        axes: str,
        voxel_size_um: tuple[float, ...] | None,
        dtype: np.dtype[np.generic],
    ) -> None:
        self.path, self.shape, self.axes, self.voxel_size_um = path, shape, axes, voxel_size_um
        self.dtype = dtype.newbyteorder("<")
        self.chunks = (*(1,) * (len(shape) - 2), self._rows, shape[-1])
        self._partial, self._scratch_path = partial_name(path), partial_name(path, "scratch")
        self._scratch: Scratch | None = None
        self._lock = Lock()
        self._done = self._closed = False
        remove(self._scratch_path)  # of a run that was killed
        self._partial.touch()

    def write(self, region: Region, array: Array) -> None:
        """See `LabelSink.write`."""
        array = np.ascontiguousarray(self._checked(region, array))
        with self._lock, writing(self.path):
            if self._done or self._closed:
                raise ValueError(f"{self.path.name} is complete already")
            if array.shape == self.shape and self._scratch is None:
                self._encode(_strips(array, self._rows))
                self._done = True
                return
            if self._scratch is None:
                self._scratch = Scratch(self._scratch_path, self.shape, self.dtype)
            self._scratch.write(region, array)

    def close(self) -> None:
        """Compress what is in the scratch file, and give the output its name."""
        if self._closed:
            return
        with self._lock, writing(self.path):
            if not self._done:
                self._encode(self._strips_of_scratch())
            self._remove_scratch()
            self._partial.replace(self.path)
            self._closed = True

    def abort(self) -> None:
        """See `LabelSink.abort`."""
        if not self._closed:
            self._closed = True
            self._remove_scratch()
            remove(self._partial)

    def _remove_scratch(self) -> None:
        if self._scratch is not None:
            self._scratch.close()

    @property
    def _rows(self) -> int:
        """Rows in a strip."""
        return max(1, min(self.shape[-2], _STRIP_BYTES // (self.shape[-1] * self.dtype.itemsize)))

    def _strips_of_scratch(self) -> Iterator[Array]:
        """The image strip by strip, out of the scratch file; some megabytes are read at once."""
        height, width = self.shape[-2:]
        band = max(1, _BAND_BYTES // (self._rows * width * self.dtype.itemsize)) * self._rows
        for plane in np.ndindex(self.shape[:-2]):
            for first in range(0, height, band):
                last = min(first + band, height)
                if self._scratch is None:
                    rows = np.zeros((last - first, width), self.dtype)
                else:
                    rows = self._scratch.read_rows(plane, first, last)
                yield from _strips(rows, self._rows)

    def _encode(self, strips: Iterator[Array]) -> None:
        """Write the TIFF from its strips in order."""
        big = prod(self.shape) * self.dtype.itemsize > _CLASSIC_LIMIT
        spacing = dict(zip((a for a in self.axes if a in "ZYX"), self.voxel_size_um or (), strict=False))
        metadata: dict[str, object] = {"axes": self.axes}
        for axis, size in spacing.items():
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
        # a random identifier would make every run's file a different one
        metadata["UUID"] = str(uuid5(NAMESPACE_URL, f"cellengine:{self.path.name}:{self.axes}:{self.shape}"))
        resolution = (1e4 / spacing["X"], 1e4 / spacing["Y"]) if spacing else None
        with tifffile.TiffWriter(self._partial, bigtiff=big, byteorder="<", ome=True) as tif:
            tif.write(
                _deflated(strips),
                shape=self.shape,
                dtype=self.dtype,
                photometric="minisblack",
                compression="zlib",
                rowsperstrip=self._rows,
                resolution=resolution,
                resolutionunit="CENTIMETER" if spacing else None,
                metadata=metadata,
                software="cellengine",
            )


def _strips(array: Array, rows: int) -> Iterator[Array]:
    """Runs of `rows` rows, plane by plane."""
    for plane in array.reshape(-1, *array.shape[-2:]):
        for row in range(0, len(plane), rows):
            yield plane[row : row + rows]


def _deflated(strips: Iterator[Array]) -> Iterator[bytes]:
    """The strips compressed, in order, a few of them at a time on all cores."""
    workers = min(8, os.cpu_count() or 1)
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="deflate") as pool:
        for strip in strips:
            waiting.append(pool.submit(_deflate, strip, level=_LEVEL))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
