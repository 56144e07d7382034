"""Decoded pieces of files, kept within a byte limit and shared between threads; and the files themselves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from io import FileIO
from pathlib import Path
from threading import Lock

from cellengine.io.axes import Array


class SegmentCache:
    """Least recently used arrays within `limit_bytes`; a piece wanted by two threads at once is made once."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._bytes = 0
        self._kept: OrderedDict[Hashable, Array] = OrderedDict()
        self._being_made: dict[Hashable, Future[Array]] = {}
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """The array under `key`, from the cache or from `make()`; what `make` raises goes to every waiting thread."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            waiting = self._being_made.get(key)
            if waiting is None:
                mine: Future[Array] = Future()
                self._being_made[key] = mine
        if waiting is not None:
            return waiting.result()
        try:
            array = make()
        except BaseException as error:
            with self._lock:
                del self._being_made[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._being_made[key]
            self._keep(key, array)
        mine.set_result(array)
        return array

    def _keep(self, key: Hashable, array: Array) -> None:
        if array.nbytes > self._limit:
            return
        self._kept[key] = array
        self._bytes += array.nbytes
        while self._bytes > self._limit:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0


class FilePool:
    """Files opened when first read, at most `limit` of them open at a time.

    Reads are done one after the other under a lock, which is portable (Windows has no positioned reads); a read is
    a copy out of the page cache, or waits for one disk anyway.
    """

    def __init__(self, limit: int = 32) -> None:
        self._limit = limit
        self._open: OrderedDict[Path, FileIO] = OrderedDict()
        self._lock = Lock()

    def read_into(self, path: Path, pieces: list[tuple[int, memoryview]]) -> None:
        """Fill each buffer from its offset in the file; EOFError when the file ends before."""
        with self._lock:
            file = self._file(path)
            for offset, buffer in pieces:
                file.seek(offset)
                done = 0
                while done < len(buffer):
                    got = file.readinto(buffer[done:])
                    if not got:
                        raise EOFError(f"{path.name} ends at byte {offset + done}")
                    done += got

    def read(self, path: Path, offset: int, count: int) -> bytearray:
        """`count` bytes from `offset`."""
        buffer = bytearray(count)
        self.read_into(path, [(offset, memoryview(buffer))])
        return buffer

    def _file(self, path: Path) -> FileIO:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            self._open[path] = FileIO(path)
            if len(self._open) > self._limit:
                self._open.popitem(last=False)[1].close()
        return self._open[path]

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()
