"""Label images of blocks in one scratch file, compressed, with tables beside them; read back in any box."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, cast

import imagecodecs
import numpy as np

from cellengine.geometry import Cells, Region
from cellengine.io.axes import Array
from cellengine.io.cache import SegmentCache
from cellengine.io.sink import writing
from cellengine.io.slots import read_at, too_short, write_at

_encode = cast(Callable[..., bytes], imagecodecs.zstd_encode)
_decode = cast(Callable[..., bytes], imagecodecs.zstd_decode)
"""their stubs leave out arrays and byte arrays"""
_BRICK = {2: (256, 256), 3: (32, 64, 64)}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies in its file, and its checksum."""

    offset: int
    length: int
    checksum: int


class BrickFile:
    """Records of a label image of 2 or 3 axes and some tables, in the file `path`, which stays when it is closed.

    Label images are cut into bricks of some 100,000 voxels, so that a box is read without the rest; they shrink to a
    few percent. Every record carries its own index: a run that goes on needs only its place. Any thread may write
    and read. Bricks read last stay decoded, in `cache_bytes` at most: neighbours are compared pair by pair.
    """

    def __init__(self, path: Path, cache_bytes: int = 0) -> None:
        self._path = path
        with writing(path):
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self._end = os.fstat(self._file.fileno()).st_size
        self._lock = Lock()
        self._cache = SegmentCache(cache_bytes)

    def append(self, labels: Array, tables: Mapping[str, Array]) -> Place:
        """Keep a uint32 label image and `tables`. ResourceError when the disk is full."""
        return self.append_record(pack_record(labels, tables))

    def append_record(self, record: bytes) -> Place:
        """Keep what `pack_record` made, here or elsewhere. ResourceError when the disk is full."""
        with self._lock:
            offset, self._end = self._end, self._end + len(record)
        with writing(self._path):
            write_at(self._file.fileno(), record, offset)
        return Place(offset, len(record), zlib.crc32(record))

    def holds(self, place: Place) -> bool:
        """Whether the record at `place` is still what was written."""
        data = bytearray(place.length)
        return read_at(self._file.fileno(), data, place.offset) and zlib.crc32(data) == place.checksum

    def read(self, place: Place, region: Region) -> Array:
        """The box `region` of the label image of a record."""
        index, offset = self._index(place)
        offset += sum(table[2] for table in index["tables"].values())
        starts = np.concatenate([[0], np.cumsum(index["bricks"])])
        grid = Cells(tuple(index["shape"]), _BRICK[len(index["shape"])])
        out = np.empty(region.shape, np.uint32)
        for number in grid.meeting(region):
            box = grid.cell(number)
            brick = self._brick(offset + int(starts[number]), index["bricks"][number]).reshape(box.shape)
            part = region.intersect(box)
            out[part.relative_to(region)] = brick[part.relative_to(box)]
        return out

    def tables(self, place: Place) -> dict[str, Array]:
        """The tables of a record."""
        index, offset = self._index(place)
        found: dict[str, Array] = {}
        for name, (kind, shape, length) in index["tables"].items():
            found[name] = np.frombuffer(_decode(self._read(offset, length)), np.dtype(kind)).reshape(shape)
            offset += length
        return found

    def _brick(self, offset: int, length: int) -> Array:
        """The voxels of a brick; those read last are at hand."""
        return self._cache.get(offset, lambda: np.frombuffer(_decode(self._read(offset, length)), np.uint32))

    def forget(self) -> None:
        """Let go of the bricks that are kept decoded."""
        self._cache.clear()

    def flush(self) -> None:
        """Wait until all is on disk."""
        with writing(self._path):
            os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._cache.clear()

    def _index(self, place: Place) -> tuple[dict[str, Any], int]:
        """What a record says of itself, and where its contents begin."""
        (length,) = _LENGTH.unpack(self._read(place.offset, _LENGTH.size))
        begin = place.offset + _LENGTH.size
        return json.loads(self._read(begin, length)), begin + length

    def _read(self, offset: int, length: int) -> bytearray:
        data = bytearray(length)
        if not read_at(self._file.fileno(), data, offset):
            raise too_short(self._path)
        return data


def pack_record(labels: Array, tables: Mapping[str, Array]) -> bytes:
    """A uint32 label image and `tables` as a record of a `BrickFile`."""
    grid = Cells(labels.shape, _BRICK[labels.ndim])
    cells = (grid.cell(number).slices for number in range(len(grid)))
    bricks = [_pack(labels[cell].astype(np.uint32, copy=False)) for cell in cells]
    columns = [_pack(table) for table in tables.values()]
    index = {
        "shape": labels.shape,
        "bricks": [len(brick) for brick in bricks],
        "tables": {n: [t.dtype.str, t.shape, len(c)] for (n, t), c in zip(tables.items(), columns, strict=True)},
    }
    head = json.dumps(index).encode()
    return b"".join([_LENGTH.pack(len(head)), head, *columns, *bricks])


def _pack(array: Array) -> bytes:
    return _encode(np.ascontiguousarray(array), level=1)
