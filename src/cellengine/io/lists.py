"""Lists of pictures: CSV files that name images and their annotations, one a row. Names only; no image is opened."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from cellengine.errors import InputError, UsageError

IMAGE_COLUMNS = ("image", "file")
LABEL_COLUMNS = ("label", "mask")
Where = Mapping[str, str | Sequence[str]]
"""rows that are meant: by column the value, or several of which a row has one"""
_DATASET = re.compile(r"(?P<file>.*\.\w+):/(?P<dataset>.+)")


@dataclass(frozen=True, slots=True)
class Reference:
    """A file, or one image of a file: `volume.h5:/label` in a list."""

    path: Path
    dataset: str | None = None
    """which image of the file; None for the only one"""

    def __str__(self) -> str:
        return f"{self.path}:/{self.dataset}" if self.dataset else str(self.path)


@dataclass(frozen=True, slots=True)
class ListedPair:
    """One row: a picture, its annotation, and what else the list says."""

    image: Reference | None
    """None where the list names no pictures"""
    label: Reference | None
    """None where this picture has no annotation"""
    values: Mapping[str, str]
    """every cell of the row by its column"""


def read_pairs(path: Path, where: Where | None = None, by: str | None = None) -> list[ListedPair]:
    """The pictures and annotations that a CSV list names, in columns `image` or `file` and `label` or `mask`.

    Paths are relative to the list; `file.h5:/name` is the image `name` in a file of several. `where` keeps rows, by
    column; `by` is a column that must be there. Files are not looked for.

    Raises InputError for a list that cannot be used, UsageError for a column or value that it lacks.
    """
    rows = read_rows(path, where or {}, by)
    label_column = first_column(path, rows[0], LABEL_COLUMNS, "the true label images")
    image_column = next((column for column in IMAGE_COLUMNS if column in rows[0]), None)
    return [
        ListedPair(reference(path.parent, row[image_column]) if image_column else None,
                   reference(path.parent, row[label_column]), row)
        for row in rows
    ]  # fmt: skip


def reference(folder: Path, cell: str) -> Reference | None:
    """What a cell of a list in `folder` names; None for an empty cell."""
    found = _DATASET.fullmatch(cell)
    if not cell.strip():
        return None
    return Reference(folder / found["file"], found["dataset"]) if found else Reference(folder / cell)


def read_rows(path: Path, where: Where, by: str | None = None) -> list[dict[str, str]]:
    """The rows of a CSV list that `where` keeps, at least one, as text by column; cells that a row lacks are empty.

    Raises InputError for a list that cannot be read or is empty, UsageError for a column or value that it lacks.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="", restkey=None)
            rows = [{name: value for name, value in row.items() if name is not None} for row in reader]
            columns = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV list ({error}).") from error
    for column in (*where, *([by] if by else [])):
        if column not in columns:
            raise UsageError(f"{path} has no column {column}; its columns are {', '.join(columns)}.")
    if not rows:
        raise InputError(f"{path}: the list has no rows.")
    wanted = {column: (value,) if isinstance(value, str) else tuple(value) for column, value in where.items()}
    kept = [row for row in rows if all(row[column] in values for column, values in wanted.items())]
    if not kept:
        asked = ", ".join(f"{column}={' or '.join(values)}" for column, values in wanted.items())
        known = "; ".join(f"{column}: {some(sorted({row[column] for row in rows}))}" for column in where)
        raise UsageError(f"No row of {path} has {asked}; found {known}.")
    return kept


def first_column(path: Path, row: Mapping[str, str], candidates: Sequence[str], what: str) -> str:
    """The first of `candidates` that the list has. Raises InputError."""
    for column in candidates:
        if column in row:
            return column
    raise InputError(
        f"{path}: no column names {what}; expected {' or '.join(candidates)}, found {', '.join(row) or 'none'}."
    )


def some(things: Iterable[object], most: int = 3) -> str:
    """The first few of many, for a message; of paths the name."""
    names = [thing.name if isinstance(thing, PurePath) else str(thing) for thing in things]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
