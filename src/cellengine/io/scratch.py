"""Blocks of an image on disk until all of them are there: written in any order, read back row by row. One file.

Every block is appended as it comes, in one piece. Laid out as the image, the file would take one small write for
every row of every block: a million of them for a gigabyte of 256-voxel blocks.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import numpy as np

from cellengine.geometry import Region
from cellengine.io.axes import Array


class Scratch:
    """Blocks of an image of `shape` in the file `path`, which is removed by `close`.

    The file holds what was written, uncompressed; memory holds the position of every block. Any thread may write.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self._path, self._shape, self._dtype = path, shape, dtype
        self._blocks: list[tuple[Region, int]] = []
        self._bounds = np.empty((0, 2, len(shape)), np.int64)
        self._end = 0
        self._lock = Lock()
        # plain reads and writes, not a memory map: a full disk is then an error and not a signal that kills
        self._file = path.open("w+b", buffering=0)

    def write(self, region: Region, array: Array) -> None:
        """Keep `array`, contiguous and of the scratch file's type, as the contents of `region`."""
        with self._lock:
            self._file.seek(self._end)
            rest = array.reshape(-1).view(np.uint8).data
            while rest:
                rest = rest[self._file.write(rest) :]
            self._blocks.append((region, self._end))
            self._end += array.nbytes

    def read_rows(self, plane: tuple[int, ...], first: int, last: int) -> Array:
        """Rows `first` to `last` of one plane, zero where nothing was written; of two writes the later one counts."""
        wanted = Region((*plane, first, 0), (*(i + 1 for i in plane), last, self._shape[-1]))
        rows = np.zeros(wanted.shape[-2:], self._dtype)
        for number in self._touching(wanted):
            region, offset = self._blocks[number]
            part = wanted.intersect(region)
            height, width = region.shape[-2:]
            below = [i - a for i, a in zip(plane, region.start, strict=False)]
            above = int(np.ravel_multi_index(below, region.shape[:-2])) if below else 0
            row = above * height + part.start[-2] - region.start[-2]
            block = np.empty((part.shape[-2], width), self._dtype)
            self._read(offset + row * width * self._dtype.itemsize, block)
            rows[part.relative_to(wanted)[-2:]] = block
        return rows

    def _touching(self, wanted: Region) -> list[int]:
        """Numbers of the blocks that hold part of `wanted`, in the order of writing."""
        if len(self._bounds) != len(self._blocks):
            self._bounds = np.array([(region.start, region.stop) for region, _ in self._blocks], np.int64)
        if not len(self._bounds):
            return []
        meet = (self._bounds[:, 0] < wanted.stop) & (self._bounds[:, 1] > wanted.start)
        return [int(i) for i in np.flatnonzero(meet.all(axis=1))]

    def _read(self, offset: int, into: Array) -> None:
        rest = into.reshape(-1).view(np.uint8).data
        with self._lock:
            self._file.seek(offset)
            while rest:
                got = self._file.readinto(rest)
                if not got:
                    raise EOFError(f"{self._path.name} ends before byte {offset + into.nbytes}")
                rest = rest[got:]

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)
