"""Scores of a classifier's table beside a list of true classes, or beside folders named after the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from cellengine.cli.evaluation.pairing import bare_name, match_names
from cellengine.cli.evaluation.report import FileScores, Report, Summary, confusion_of
from cellengine.errors import InputError, UsageError
from cellengine.io.lists import first_column, read_rows
from cellengine.metrics import ClassScores, evaluate_classes

ITEM_COLUMNS = ("file", "image", "id")
CLASS_COLUMNS = ("class", "class_name")
KNOWN_COLUMNS = ("file", "class", "score")
"""the columns of `classes.csv` that are no class"""

HEADLINE = ("items", "accuracy", "balanced_accuracy", "roc_auc", "calibration_error")


@dataclass(frozen=True, slots=True)
class Item:
    """One classified picture."""

    name: str
    image: Path | None
    group: str
    true: int
    predicted: int
    confidence: float
    """probability of the predicted class, or NaN"""


@dataclass(frozen=True, slots=True)
class TrueItem:
    """One picture whose class is known."""

    names: tuple[str, ...]
    """what the classifier's table may call it"""
    image: Path
    label: str
    group: str


@dataclass(frozen=True, slots=True)
class Answers:
    """All items beside their truth."""

    names: tuple[str, ...]
    """of the classes, in order of their numbers"""
    items: tuple[Item, ...]
    scores: ClassScores


def evaluate_answers(predicted: Path, truth: Path, where: Mapping[str, str], by: str | None) -> tuple[Answers, Report]:
    """Score a table `file, class, score, one column a class`.

    Args:
        predicted: the table, or a folder that holds `classes.csv`
        truth: a CSV list with a column `file`, `image` or `id` and a column `class` or `class_name`, or a folder with
            one folder of pictures per class
        where: rows of the list that count, column by value
        by: column of the list that groups the scores

    Raises InputError for tables that cannot be used and UsageError for wrong options.
    """
    table = predicted / "classes.csv" if predicted.is_dir() else predicted
    if not table.is_file():
        raise UsageError(f"{table} does not exist; expected the classes.csv of a classifier.")
    rows = read_rows(table, {})
    first_column(table, rows[0], ("file",), "the classified files")
    first_column(table, rows[0], ("class",), "the predicted class")
    truths = _listed(truth, where, by) if truth.suffix.lower() == ".csv" else _foldered(truth, where, by)
    found = match_names([one.names for one in truths], [bare_name(PurePath(row["file"])) for row in rows])
    missing = [one.names[0] for one, index in zip(truths, found, strict=True) if index is None]
    if missing:
        raise InputError(f"{len(missing)} of {len(truths)} pictures have no row in {table}, for instance {missing[0]}.")
    answered = [rows[index] for index in found if index is not None]
    answers = _answers(table, truths, answered)
    return answers, _report(answers, unused=len(rows) - len(set(found)))


def _listed(truth: Path, where: Mapping[str, str], by: str | None) -> list[TrueItem]:
    rows = read_rows(truth, where, by)
    item = first_column(truth, rows[0], ITEM_COLUMNS, "the pictures")
    label = first_column(truth, rows[0], CLASS_COLUMNS, "the true class")
    return [
        TrueItem(
            names=(bare_name(PurePath(row[item])), row[item]),
            image=truth.parent / row[item],
            label=row[label],
            group=row[by] if by else "",
        )
        for row in rows
    ]


def _foldered(truth: Path, where: Mapping[str, str], by: str | None) -> list[TrueItem]:
    if where or by:
        raise UsageError(f"--where and --by choose rows of a CSV list; {truth} is none.")
    if not truth.is_dir():
        raise UsageError(f"{truth} is neither a CSV list nor a folder with one folder per class.")
    found: list[TrueItem] = []
    for folder in sorted(entry for entry in truth.iterdir() if entry.is_dir()):
        for file in sorted(folder.iterdir()):
            name = PurePath(folder.name, file.name)
            if file.is_file() and not file.name.startswith("."):
                found.append(TrueItem((bare_name(name), name.as_posix()), file, folder.name, ""))
    if not found:
        raise InputError(f"{truth}: no pictures found; expected one folder of pictures per class.")
    return found


def _answers(table: Path, truths: Sequence[TrueItem], rows: Sequence[Mapping[str, str]]) -> Answers:
    given = [column for column in rows[0] if column not in KNOWN_COLUMNS]
    names = given or sorted({row["class"] for row in rows} | {one.label for one in truths})
    number = {name: index for index, name in enumerate(names)}
    strange = ({one.label for one in truths} | {row["class"] for row in rows}) - set(names)
    if strange:
        raise InputError(f"The class {min(strange)} is none of the classes of {table}: {', '.join(names)}.")
    true = [number[one.label] for one in truths]
    predicted = [number[row["class"]] for row in rows]
    try:
        probabilities = np.array([[float(row[name]) for name in names] for row in rows]) if given else None
    except ValueError as error:
        raise InputError(f"{table}: a probability is no number ({error}).") from error
    items = tuple(
        Item(
            name=one.names[0],
            image=one.image,
            group=one.group,
            true=true[index],
            predicted=predicted[index],
            confidence=float("nan") if probabilities is None else float(probabilities[index, predicted[index]]),
        )
        for index, one in enumerate(truths)
    )
    return Answers(tuple(names), items, evaluate_classes(true, predicted, len(names), probabilities))


def _report(answers: Answers, unused: int) -> Report:
    groups = {item.group for item in answers.items}
    by_group = {group: _only(answers, group) for group in sorted(groups)} if any(groups) else {}
    return Report(
        task="classes",
        headline=HEADLINE,
        files=tuple(_file_scores(answers, item) for item in answers.items),
        total=_summary(answers, answers.scores),
        groups={group: _summary(answers, scores) for group, scores in by_group.items()},
        notes=(f"{unused} classified file(s) without a truth were not evaluated.",) if unused else (),
        classes=answers.names,
    )


def _file_scores(answers: Answers, item: Item) -> FileScores:
    return FileScores(
        item.name,
        item.group,
        {"right": float(item.true == item.predicted), "confidence": item.confidence},
        {"true": answers.names[item.true], "predicted": answers.names[item.predicted]},
    )


def _only(answers: Answers, group: str) -> ClassScores:
    scores, chosen = answers.scores, np.array([item.group == group for item in answers.items])
    shares = None if scores.probabilities is None else scores.probabilities[chosen]
    return evaluate_classes(scores.truth[chosen], scores.predicted[chosen], scores.classes, shares)


def _summary(answers: Answers, scores: ClassScores) -> Summary:
    """Pooled scores only, with classes by name: one picture is right or wrong and has no scores of its own."""
    named = {}
    for entry, value in scores.row().items():
        kind, _, number = entry.rpartition("_")
        named[f"{kind}_{answers.names[int(number)]}" if number.isdigit() else entry] = value
    return Summary(scores.truth.size, {}, named, confusion_of(scores))
