"""Label images as OME-TIFF: deflated strips, compressed on all cores, in bounded memory. Reading is in `tiff`."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
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
from cellengine.io.sink import BaseSink, partial_name, remove, writing

_deflate = cast(Callable[..., bytes], imagecodecs.deflate_encode)
"""libdeflate, several times as fast as zlib; its stubs leave out arrays"""
_STRIP_BYTES = 1 << 20
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
    large as the uncompressed image, and is compressed from there when the sink is closed; either way memory is a few
    strips of 1 MB. The same labels give the same bytes.
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
        self.chunks = (1,) * (len(shape) - 2) + shape[-2:]
        self._partial, self._scratch = partial_name(path), partial_name(path, "scratch")
        self._lock = Lock()
        self._done = self._closed = False
        self._partial.touch()

    def write(self, region: Region, array: Array) -> None:
        """See `LabelSink.write`."""
        array = np.ascontiguousarray(self._checked(region, array))
        with self._lock, writing(self.path):
            if self._done or self._closed:
                raise ValueError(f"{self.path.name} is complete already")
            if array.shape == self.shape and not self._scratch.exists():
                self._encode(_strips(array, self._rows))
                self._done = True
            else:
                self._write_scratch(region, array)

    def close(self) -> None:
        """Compress what is in the scratch file, and give the output its name."""
        if self._closed:
            return
        with self._lock, writing(self.path):
            if not self._done:
                with self._scratch.open("ab") as file:
                    file.truncate(prod(self.shape) * self.dtype.itemsize)
                self._encode(self._strips_of_scratch())
            remove(self._scratch)
            self._partial.replace(self.path)
            self._closed = True

    def abort(self) -> None:
        """See `LabelSink.abort`."""
        if not self._closed:
            self._closed = True
            remove(self._scratch)
            remove(self._partial)

    @property
    def _rows(self) -> int:
        """Rows in a strip."""
        return max(1, min(self.shape[-2], _STRIP_BYTES // (self.shape[-1] * self.dtype.itemsize)))

    def _write_scratch(self, region: Region, array: Array) -> None:
        """Write the pieces of `array` that lie side by side in the file, each in one go.

        Plain writes, not a memory map: a full disk is then an error and not a signal that kills the process.
        """
        joined = len(self.shape) - 1  # the first axis of a piece: all behind it are covered in full
        while joined > 0 and array.shape[joined:] == self.shape[joined:]:
            joined -= 1
        steps = [prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        with self._scratch.open("r+b" if self._scratch.exists() else "w+b", buffering=0) as file:
            for at in product(*(range(n) for n in array.shape[:joined])):
                first = sum((s + i) * step for s, i, step in zip(region.start, at, steps, strict=False))
                first += sum(s * step for s, step in zip(region.start[joined:], steps[joined:], strict=True))
                file.seek(first * self.dtype.itemsize)
                _write_all(file.fileno(), array[at].reshape(-1).view(np.uint8).data)

    def _strips_of_scratch(self) -> Iterator[Array]:
        """The image strip by strip, out of the scratch file."""
        height, width = self.shape[-2:]
        with self._scratch.open("rb") as file:
            for _ in range(prod(self.shape[:-2])):
                for row in range(0, height, self._rows):
                    rows = min(self._rows, height - row)
                    yield np.fromfile(file, self.dtype, rows * width).reshape(rows, width)

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


def _write_all(handle: int, data: memoryview) -> None:
    """Write every byte: near the end of a disk the system may take fewer than it is given."""
    while data:
        data = data[os.write(handle, data) :]


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
