"""What an evaluation found, as data: scores by file, by group and in total; and how it is written as CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

from cellengine.errors import ResourceError
from cellengine.io import write_table
from cellengine.metrics import ClassScores, Scores, SemanticScores, mean_over_pictures, pool

Entries = Mapping[str, float]
Counts = Sequence[Sequence[int]]
"""voxels or items by true class (rows) and predicted class (columns)"""


@dataclass(frozen=True, slots=True)
class FileScores:
    """The scores of one picture."""

    name: str
    group: str
    entries: Entries
    facts: Mapping[str, str]
    """further columns of the CSV: where prediction and truth lie, what a classifier said"""
    confusion: Counts | None = None
    """for maps of classes"""


@dataclass(frozen=True, slots=True)
class Summary:
    """The scores of several pictures."""

    files: int
    mean: Entries
    """mean over pictures; empty where single pictures have no scores of their own"""
    pooled: Entries
    """all objects or voxels together"""
    confusion: Counts | None = None
    """where there are classes"""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is printed and written."""

    task: str
    headline: tuple[str, ...]
    """names of the entries that the printed table shows"""
    files: tuple[FileScores, ...]
    total: Summary
    groups: Mapping[str, Summary]
    """by value of the grouping column, in order of their names; empty when not grouped"""
    notes: tuple[str, ...]
    """what a reader of the numbers must know"""
    classes: tuple[str, ...] = ()
    """names in the order of the rows and columns of every confusion"""


def summarise(scores: Sequence[Scores]) -> Summary:
    """Mean over pictures and pooled scores; at least one picture."""
    pooled = pool(scores)
    return Summary(len(scores), mean_over_pictures(scores), pooled.row(), confusion_of(pooled))


def confusion_of(scores: Scores) -> Counts | None:
    """The confusion as plain numbers; None where there are no classes."""
    if not isinstance(scores, SemanticScores | ClassScores):
        return None
    plain: list[list[int]] = scores.confusion.tolist()
    return plain


def write_csv(report: Report, path: Path) -> None:
    """One row a file; entries that are not defined are nan."""
    entry_names = dict.fromkeys(name for file in report.files for name in file.entries)
    fact_names = dict.fromkeys(name for file in report.files for name in file.facts)
    columns: dict[str, list[Any]] = {
        "file": [file.name for file in report.files],
        "group": [file.group for file in report.files],
    }
    columns |= {name: [file.entries.get(name, nan) for file in report.files] for name in entry_names}
    columns |= {name: [file.facts.get(name, "") for file in report.files] for name in fact_names}
    write_table(path, columns)


def write_confusion(report: Report, path: Path) -> None:
    """The confusion of all files together, one row a true class and one column a predicted one."""
    rows = report.total.confusion or ()
    columns: dict[str, list[Any]] = {"true": list(report.classes)}
    columns |= {f"predicted_{name}": [row[i] for row in rows] for i, name in enumerate(report.classes)}
    write_table(path, columns)


def write_json(report: Report, path: Path) -> None:
    """Totals, groups and the confusion of every map of classes; entries that are not defined are null."""
    content = {
        "task": report.task,
        **({"classes": list(report.classes)} if report.classes else {}),
        "total": _plain_summary(report.total),
        "groups": {name: _plain_summary(summary) for name, summary in report.groups.items()},
        "files": [{"file": f.name, "group": f.group, "confusion": f.confusion} for f in report.files if f.confusion],
        "notes": list(report.notes),
    }
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file that has its name only when it is complete. Raises ResourceError when that is not possible."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ResourceError(f"{path} cannot be written: {error.strerror or error}.") from error


def _plain_summary(summary: Summary) -> dict[str, object]:
    plain: dict[str, object] = {"files": summary.files}
    for name, entries in (("mean_over_pictures", summary.mean), ("pooled", summary.pooled)):
        if entries:
            plain[name] = {key: None if isnan(value) else value for key, value in entries.items()}
    if summary.confusion is not None:
        plain["confusion"] = summary.confusion
    return plain
