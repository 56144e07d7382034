"""The file that a watcher keeps its record in: tables, transactions, and what can go wrong with them."""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cellengine.errors import DiskFull, ResourceError, UsageError

FILE = ".watch.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pictures (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    size INTEGER NOT NULL,
    changed_ns INTEGER NOT NULL,
    arrived_ns INTEGER NOT NULL,
    due REAL NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    parts INTEGER NOT NULL DEFAULT 1,
    note TEXT NOT NULL DEFAULT '',
    stem TEXT UNIQUE COLLATE NOCASE,
    sequence INTEGER,
    finished REAL,
    latency_s REAL,
    seconds REAL,
    objects INTEGER,
    record TEXT
);
CREATE INDEX IF NOT EXISTS in_order ON pictures (kind, arrived_ns, id);
CREATE INDEX IF NOT EXISTS by_due ON pictures (kind, due);
CREATE UNIQUE INDEX IF NOT EXISTS in_time ON pictures (sequence) WHERE sequence IS NOT NULL;
CREATE INDEX IF NOT EXISTS totals ON pictures (kind, finished, objects);
CREATE INDEX IF NOT EXISTS troubled ON pictures (kind) WHERE note != '';
CREATE TABLE IF NOT EXISTS classes (picture INTEGER, class TEXT, count INTEGER, PRIMARY KEY (picture, class));
"""
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


class Database:
    """One connection that threads share. A power cut loses nothing that was committed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = threading.RLock()
        with self._asking():
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30)
            self._db.row_factory = sqlite3.Row
            # a commit is on the disk, its directory entry included, before it counts
            self._db.execute("PRAGMA journal_mode = DELETE")
            self._db.execute("PRAGMA synchronous = EXTRA")
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def one(self, query: str, *values: Any) -> sqlite3.Row | None:
        """The first row of an answer."""
        with self._lock, self._asking():
            row: sqlite3.Row | None = self._db.execute(query, values).fetchone()
            return row

    def all(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """All rows of an answer; the caller limits their number."""
        with self._lock, self._asking():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on disk at the end, or nothing."""
        with self._lock, self._asking():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What SQLite says, as errors of this package."""
        try:
            yield
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _FULL:
                full = OSError(errno.ENOSPC, "no space left")
                raise DiskFull(f"{self.path}: the disk is full or failing ({error}); free some space.") from full
            raise ResourceError(f"{self.path}: cannot be used ({error}); choose another -o.") from error
        except sqlite3.DatabaseError as error:
            raise UsageError(f"{self.path} is damaged ({error}): move it away, or choose another -o.") from error
