"""The tables of a watch, for spreadsheets: pictures.csv, one row a picture, and failures.csv."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from sqlite3 import Row
from typing import Any

from cellengine.io import TableWriter
from cellengine.watch import overview
from cellengine.watch.database import Database

ROWS_AT_ONCE = 1000

Columns = dict[str, Callable[[Row], Any]]

PICTURES: Columns = {
    "file": lambda row: row["name"],
    "objects": lambda row: row["objects"],
    "finished": lambda row: _time(row["finished"]),
    "seconds": lambda row: row["seconds"],
    "latency_s": lambda row: row["latency_s"],
    "results": lambda row: row["stem"],
}
FAILURES: Columns = {
    "file": lambda row: row["name"],
    "attempts": lambda row: row["failures"],
    "last": lambda row: _time(row["finished"]),
    "reason": lambda row: row["note"],
}


def write_tables(journal: Database, output: Path) -> None:
    """Bring both tables up to date; failures.csv is there only when pictures were set aside."""
    _write(output / "pictures.csv", PICTURES, overview.rows(journal, "done"))
    failures = output / "failures.csv"
    if overview.counts(journal)["failed"]:
        _write(failures, FAILURES, overview.rows(journal, "failed"))
    else:
        failures.unlink(missing_ok=True)


def _write(path: Path, columns: Columns, rows: Iterator[Row]) -> None:
    with TableWriter(path, list(columns)) as table:
        while block := list(islice(rows, ROWS_AT_ONCE)):
            table.append({name: [value(row) for row in block] for name, value in columns.items()})


def _time(seconds: float | None) -> str:
    """Local time with its offset, to the second."""
    return "" if seconds is None else datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
