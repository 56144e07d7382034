"""Arrays of one size in a scratch file: a slot is written over when what it held is no longer needed.

Plain reads and writes at an offset, not a memory map: a full disk is an error here and a signal there that kills, and
mapped pages count as memory of the process.
"""

from __future__ import annotations

import os
import zlib
from math import prod
from pathlib import Path

import numpy as np

from cellengine.errors import ResourceError
from cellengine.geometry import Region
from cellengine.io.axes import Array
from cellengine.io.sink import writing


class SlotFile:
    """16-bit arrays (channels, *box) of at most `slot_bytes` in the file `path`, which stays when it is closed.

    Any thread may write and read, and other processes that open the file, too; nobody reads a slot while it is
    written. Memory: nothing to speak of.
    """

    def __init__(self, path: Path, slot_bytes: int) -> None:
        self.path, self._slot_bytes = path, slot_bytes
        with writing(path):
            # never emptied: a network drive may be late to tell another machine that the file is there
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)

    def write(self, slot: int, array: Array) -> int:
        """Store an array and return its checksum. ResourceError when the disk is full."""
        data = np.ascontiguousarray(array, np.uint16).data.cast("B")
        if data.nbytes > self._slot_bytes:
            raise ValueError(f"an array of {data.nbytes} bytes for slots of {self._slot_bytes}")
        with writing(self.path):
            write_at(self._file.fileno(), data, slot * self._slot_bytes)
        return zlib.crc32(data)

    def holds(self, slot: int, shape: tuple[int, ...], checksum: int) -> bool:
        """Whether the slot still holds the array of `shape` whose writing returned `checksum`."""
        data = bytearray(2 * prod(shape))
        return read_at(self._file.fileno(), data, slot * self._slot_bytes) and zlib.crc32(data) == checksum

    def read(self, slot: int, box: Region, part: Region, out: Array) -> None:
        """Fill `out`, uint16 (channels, *part.shape), with a part of the array (channels, *box.shape) in a slot."""
        # the planes (rows in 2D) that hold the part are read in one piece
        row = 2 * box.size // box.shape[0]
        first, last = part.start[0] - box.start[0], part.stop[0] - box.start[0]
        rest = part.relative_to(box)[1:]
        for channel, values in enumerate(out):
            data = bytearray((last - first) * row)
            offset = slot * self._slot_bytes + 2 * channel * box.size + first * row
            if not read_at(self._file.fileno(), data, offset):
                raise too_short(self.path)
            planes = np.frombuffer(data, np.uint16).reshape(last - first, *box.shape[1:])
            values[...] = planes[(slice(None), *rest)]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_at(file: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    rest = memoryview(data)
    while rest:
        done = os.pwrite(file, rest, offset)
        rest, offset = rest[done:], offset + done


def read_at(file: int, into: bytearray, offset: int) -> bool:
    """Fill `into` from `offset`; False when the file ends before."""
    view, done = memoryview(into), 0
    while done < len(into):
        got = os.preadv(file, [view[done:]], offset + done)
        if not got:
            return False
        done += got
    return True


def too_short(path: Path) -> ResourceError:
    """The error for a scratch file that lost what was written to it."""
    return ResourceError(f"{path.name} is shorter than what was written: the disk failed; run the command again.")
