"""Tables read in blocks: some columns of a CSV file of any length, in memory that does not grow with it."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from cellengine.errors import InputError, UsageError
from cellengine.io.source import DECODE_ERRORS, decoding

ROWS_AT_ONCE = 4096


def read_header(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of the columns. UsageError when there is no such file, InputError when it has no header."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file.")
    with decoding(path.name, (*DECODE_ERRORS, csv.Error)), path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file, strict=True), None)
    if not header:
        raise InputError(f"{path.name}: the table is empty; expected a header line.")
    return tuple(header)


def read_columns(
    path: str | os.PathLike[str], names: Sequence[str], rows_at_once: int = ROWS_AT_ONCE
) -> Iterator[dict[str, tuple[str, ...]]]:
    """Blocks of at most `rows_at_once` rows: column name -> its cells, as text.

    About 2 us a row of 20 cells. Raises UsageError when there is no such file, InputError for a missing column or a
    row of another length.
    """
    path, header = Path(path), read_header(path)
    missing = [name for name in names if name not in header]
    if missing:
        raise InputError(f"{path.name}: no column {', '.join(missing)}; found {', '.join(header)}.")
    wanted = {name: header.index(name) for name in names}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        next(reader)
        while True:
            with decoding(path.name, (*DECODE_ERRORS, csv.Error)):
                rows = list(islice(reader, rows_at_once))
                if not rows:
                    return
                columns = list(zip(*rows, strict=True))
            if len(columns) != len(header):
                raise InputError(f"{path.name}: rows of {len(columns)} cells; expected {len(header)}.")
            yield {name: columns[index] for name, index in wanted.items()}
