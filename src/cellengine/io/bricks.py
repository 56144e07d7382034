"""Arrays on disk while a run needs them: written once in parts by any thread, read back in any box. Scratch only.

Plain reads and writes at an offset, not a memory map: a full disk is an error here and a signal there that kills, and
mapped pages count as memory of the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self, cast

import imagecodecs
import numpy as np

from cellengine.errors import ResourceError
from cellengine.geometry import Region
from cellengine.io.axes import Array
from cellengine.io.sink import writing

_encode = cast(Callable[..., bytes], imagecodecs.zstd_encode)
_decode = cast(Callable[..., bytes], imagecodecs.zstd_decode)
"""their stubs leave out arrays and byte arrays"""
_BRICK = {2: (256, 256), 3: (32, 128, 128)}


class BrickFile:
    """Compressed arrays of 2 or 3 axes in the file `path`, each under a key; `close` removes the file.

    Arrays are cut into bricks of some 100,000 voxels, so that a box is read without the rest. Label images shrink to
    a few percent. Memory: the place of every brick. Any thread may write and read.
    """

    def __init__(self, path: Path, dtype: Any) -> None:
        self._path, self._dtype = path, np.dtype(dtype)
        self._bricks: dict[tuple[Any, tuple[int, ...]], tuple[int, int]] = {}
        self._shapes: dict[Any, tuple[int, ...]] = {}
        self._end = 0
        self._lock = Lock()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w+b", buffering=0)

    @property
    def nbytes(self) -> int:
        """Bytes on disk so far."""
        return self._end

    def write(self, key: Any, array: Array) -> None:
        """Keep `array` under `key`, which is new. ResourceError when the disk is full."""
        places: dict[tuple[Any, tuple[int, ...]], tuple[int, int]] = {}
        for corner, box in _bricks(Region.whole(array.shape)):
            packed = _encode(np.ascontiguousarray(array[box.slices], self._dtype), level=1)
            with self._lock:
                offset, self._end = self._end, self._end + len(packed)
            with writing(self._path):
                _write_at(self._file.fileno(), packed, offset)
            places[key, corner] = (offset, len(packed))
        with self._lock:
            self._bricks |= places
            self._shapes[key] = array.shape

    def read(self, key: Any, region: Region) -> Array:
        """The box `region` of the array under `key`."""
        out = np.empty(region.shape, self._dtype)
        whole = Region.whole(self._shapes[key])
        for corner, box in _bricks(whole, region):
            offset, length = self._bricks[key, corner]
            packed = _read_at(self._file.fileno(), length, offset, self._path)
            brick = np.frombuffer(_decode(packed), self._dtype).reshape(box.shape)
            part = region.intersect(box)
            out[part.relative_to(region)] = brick[part.relative_to(box)]
        return out

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _bricks(whole: Region, wanted: Region | None = None) -> Iterator[tuple[tuple[int, ...], Region]]:
    """Grid position and box of the bricks of an array, or of those that meet `wanted`."""
    side = _BRICK[len(whole.shape)]
    wanted = whole if wanted is None else wanted
    axes = (range(a // s, -(-b // s)) for a, b, s in zip(wanted.start, wanted.stop, side, strict=True))
    for corner in product(*axes):
        start = tuple(i * s for i, s in zip(corner, side, strict=True))
        yield corner, Region(start, tuple(a + s for a, s in zip(start, side, strict=True))).intersect(whole)


class GridFile:
    """A 16-bit image (channels, *shape) in the file `path`, written cell by cell of a grid; `close` removes the file.

    Cells are those of a grid with `step` voxels a side that starts at the origin, each in one place of the file, so
    that any thread writes its own without waiting. What was not written reads as 0. Memory: nothing to speak of.
    """

    def __init__(self, path: Path, channels: int, shape: tuple[int, ...], step: tuple[int, ...]) -> None:
        self._path, self._channels, self._shape = path, channels, shape
        self._step = tuple(min(s, n) for s, n in zip(step, shape, strict=True))
        self._grid = tuple(-(-n // s) for n, s in zip(shape, self._step, strict=True))
        self._slot = 2 * channels * int(np.prod(self._step, dtype=np.int64))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w+b", buffering=0)
            os.truncate(self._file.fileno(), self._slot * int(np.prod(self._grid, dtype=np.int64)))

    def write(self, cell: Region, array: Array) -> None:
        """Store uint16 `array` (channels, *cell.shape) at a cell of the grid (cut at the image's end)."""
        corner = tuple(a // s for a, s in zip(cell.start, self._step, strict=True))
        if self._box(corner) != cell or array.shape != (self._channels, *cell.shape):
            raise ValueError(f"an array of {array.shape} for {cell}: expected a cell of the grid {self._step}")
        with writing(self._path):
            _write_at(self._file.fileno(), np.ascontiguousarray(array, np.uint16).data.cast("B"), self._offset(corner))

    def read(self, region: Region) -> Array:
        """The box `region` of every channel, uint16 (channels, *region.shape)."""
        out = np.empty((self._channels, *region.shape), np.uint16)
        axes = (range(a // s, -(-b // s)) for a, b, s in zip(region.start, region.stop, self._step, strict=True))
        for corner in product(*axes):
            box = self._box(corner)
            part = region.intersect(box)
            for channel in range(self._channels):
                out[channel][part.relative_to(region)] = self._read_part(corner, box, channel, part)
        return out

    def _read_part(self, corner: tuple[int, ...], box: Region, channel: int, part: Region) -> Array:
        """`part` of a cell: the planes (rows in 2D) that hold it are read in one piece."""
        first, last = part.start[0] - box.start[0], part.stop[0] - box.start[0]
        row = 2 * box.size // box.shape[0]
        offset = self._offset(corner) + 2 * channel * box.size + first * row
        values = np.frombuffer(_read_at(self._file.fileno(), (last - first) * row, offset, self._path), np.uint16)
        rest = tuple(slice(a - o, b - o) for a, b, o in zip(part.start, part.stop, box.start, strict=True))[1:]
        shaped: Array = values.reshape(last - first, *box.shape[1:])[(slice(None), *rest)]
        return shaped

    def _box(self, corner: tuple[int, ...]) -> Region:
        start = tuple(i * s for i, s in zip(corner, self._step, strict=True))
        return Region(start, tuple(min(a + s, n) for a, s, n in zip(start, self._step, self._shape, strict=True)))

    def _offset(self, corner: tuple[int, ...]) -> int:
        return int(np.ravel_multi_index(corner, self._grid)) * self._slot

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _write_at(file: int, data: bytes | memoryview, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        done = os.pwrite(file, rest, offset)
        rest, offset = rest[done:], offset + done


def _read_at(file: int, length: int, offset: int, path: Path) -> bytearray:
    data = bytearray(length)
    done = 0
    while done < length:
        got = os.preadv(file, [memoryview(data)[done:]], offset + done)
        if not got:
            raise ResourceError(
                f"{path.name} is shorter than what was written: the disk failed; run the command again."
            )
        done += got
    return data
