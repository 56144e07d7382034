"""Tables of objects as CSV: columns of arrays in, text out block by block, the file complete or not there at all."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from cellengine.errors import InputError, UsageError
from cellengine.io.axes import Array
from cellengine.io.sink import WholeFile, writing
from cellengine.io.source import DECODE_ERRORS, decoding

_ROWS_AT_ONCE = 8_192
"""a cell that is being formatted takes some 60 bytes: 20 columns of so many rows take 10 MB"""
_FLOAT = "%.8g"
"""a thousandth of a pixel in pictures of 100,000 pixels a side"""
_SPECIAL = frozenset(',"\r\n')


class TableWriter(WholeFile):
    """A CSV file with the header `columns`, written in blocks of rows and given its name when it is closed.

    Integers are written as integers, booleans as 0 and 1, floats with eight significant digits, NaN as nan; strings
    are quoted where the CSV rules ask for it. Formatting is one C call a block, about 0.15 us a cell.
    """

    _file: TextIO

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str]) -> None:
        super().__init__(path)
        self.columns = tuple(columns)
        with writing(self.path):
            self._file = self._partial.open("w", encoding="utf-8", newline="")
            self._file.write(",".join(map(_quoted, self.columns)) + "\n")

    def append(self, block: Mapping[str, Array | Sequence[Any]]) -> None:
        """Add rows: one array of one length a column. ValueError for other columns or unequal lengths."""
        if set(block) != set(self.columns):
            raise ValueError(f"columns {sorted(block)}; expected {sorted(self.columns)}")
        arrays = [np.asarray(block[name]) for name in self.columns]
        rows = len(arrays[0]) if arrays else 0
        if any(a.shape != (rows,) for a in arrays):
            raise ValueError(f"columns of shapes {[a.shape for a in arrays]}; expected {rows} rows in each")
        with writing(self.path):
            for start in range(0, rows, _ROWS_AT_ONCE):
                self._file.write(_text([a[start : start + _ROWS_AT_ONCE] for a in arrays]))


def write_table(path: str | os.PathLike[str], columns: Mapping[str, Array | Sequence[Any]]) -> None:
    """Write a whole table at once; see `TableWriter`."""
    with TableWriter(path, list(columns)) as table:
        table.append(columns)


def read_table(path: str | os.PathLike[str], required: Iterable[str] = ()) -> dict[str, Array]:
    """The columns of a CSV file with a header: int64 where all cells are integers, else float64, else strings.

    Raises UsageError when there is no such file, InputError when it is no such table or lacks a `required` column.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file.")
    with decoding(path.name, (*DECODE_ERRORS, csv.Error)), path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file, strict=True))
    if not rows:
        raise InputError(f"{path.name}: the table is empty; expected a header line.")
    header, body = rows[0], [row for row in rows[1:] if row]
    ragged = next((i for i, row in enumerate(body) if len(row) != len(header)), None)
    if ragged is not None:
        raise InputError(f"{path.name}: row {ragged + 1} has {len(body[ragged])} cells; expected {len(header)}.")
    missing = [name for name in required if name not in header]
    if missing:
        raise InputError(f"{path.name}: no column {', '.join(missing)}; found {', '.join(header)}.")
    columns = zip(*body, strict=True) if body else ((),) * len(header)
    return {name: _parsed(cells) for name, cells in zip(header, columns, strict=True)}


def _text(arrays: list[Array]) -> str:
    """The rows of the columns as CSV text: one template, filled in one go."""
    formats, cells = [], []
    for array in arrays:
        if array.dtype.kind in "biu":
            formats.append("%d")
            cells.append(array.tolist())
        elif array.dtype.kind == "f":
            formats.append(_FLOAT)
            cells.append(array.tolist())
        else:
            names = array.astype(str).tolist()
            quoted = {name: _quoted(name) for name in set(names)}
            formats.append("%s")
            cells.append([quoted[name] for name in names])
    row = ",".join(formats) + "\n"
    return row * len(arrays[0]) % tuple(chain.from_iterable(zip(*cells, strict=True)))


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if not _SPECIAL.isdisjoint(cell) else cell


def _parsed(cells: Sequence[str]) -> Array:
    for parse, kind in ((int, np.int64), (float, np.float64)):
        try:
            return np.array([parse(cell) for cell in cells], kind)
        except (ValueError, OverflowError):
            continue
    return np.array(cells, str)
