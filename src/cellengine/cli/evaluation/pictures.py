"""Scores of predicted label images and class maps beside the true ones, file by file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellengine.cli.evaluation.pairing import Pair, Pairing
from cellengine.cli.evaluation.report import FileScores, Report, confusion_of, summarise
from cellengine.errors import InputError
from cellengine.geometry import Region
from cellengine.io import open_source, read_table
from cellengine.metrics import (
    BoundaryScores,
    PartitionScores,
    Scores,
    SemanticScores,
    boundaries_of,
    evaluate_boundaries,
    evaluate_instances,
    evaluate_partition,
    evaluate_semantic,
)

Labels = npt.NDArray[Any]
ScoreOf = dict[int, float]

HEADLINES = {
    "instances": (
        "n_true", "n_predicted", "count_error", "wrong_cells",
        "ap0.5", "ap0.75", "mean_ap", "precision", "recall", "f1", "pq", "seg",
    ),
    "semantic": ("mean_dice", "mean_iou", "frequency_weighted_iou", "pixel_accuracy", "mean_accuracy"),
    "boundary": (
        "boundary_f1", "boundary_precision", "boundary_recall", "voi", "voi_split", "voi_merge", "adapted_rand_error",
    ),
}  # fmt: skip
"""columns of the printed table by task"""

RANKING = {"instances": "mean_ap", "semantic": "mean_dice", "boundary": "boundary_f1"}
"""the entry by task for which a low value makes a bad picture"""


MOST_CLASSES = 64
"""a class map with greater values is drawn in grey values or is one of instances"""


@dataclass(frozen=True, slots=True)
class LabelImage:
    """A label image and what is known of its voxels."""

    labels: Labels
    voxel_size_um: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """How the true maps of classes are drawn."""

    values: tuple[int, ...] = ()
    """grey values in order of the classes; empty where the maps hold class ids"""
    ignored: int | None = None
    """value of voxels that nobody knows and that do not count"""


@dataclass(frozen=True, slots=True)
class TrueClasses:
    """A true map of classes."""

    ids: Labels
    known: npt.NDArray[np.bool_]
    """which voxels count"""
    strays: int
    """voxels of a grey value that is no class, which went to the nearest"""


@dataclass(frozen=True, slots=True)
class BorderScores:
    """Boundaries and partition together: what the task `boundary` reports."""

    boundaries: BoundaryScores
    partition: PartitionScores

    def row(self) -> dict[str, float]:
        """The entries of both."""
        return self.boundaries.row() | self.partition.row()

    def __add__(self, other: BorderScores) -> BorderScores:
        """The scores of both pictures taken as one."""
        return BorderScores(self.boundaries + other.boundaries, self.partition + other.partition)


def evaluate_pictures(
    pairing: Pairing,
    task: str,
    tolerance_px: float,
    drawn: Drawn,
    axes: str | None,
    advance: Callable[[Iterable[Pair]], Iterable[Pair]],
) -> Report:
    """Score every pair; one pair of images is in memory at a time.

    Args:
        pairing: what belongs together
        task: `instances`, `semantic` or `boundary`
        tolerance_px: for `boundary`, see `evaluate_boundaries`
        drawn: for `semantic`, what the values of the truth mean
        axes: axes of the truth files, where these do not name them
        advance: passes the pairs on and shows how far it is

    Raises InputError for files that cannot be read or compared.
    """
    score_tables = _score_tables(pairing.pairs) if task == "instances" else {}
    scores: list[Scores] = []
    remapped = unknown = 0
    for pair in advance(pairing.pairs):
        truth, predicted = read_labels(pair.truth, axes, pair.dataset), read_labels(pair.predicted)
        _refuse_other_shape(pair, truth.labels, predicted.labels)
        if task == "instances":
            scores.append(_instances(pair, truth.labels, predicted.labels, score_tables.get(pair.name)))
        elif task == "semantic":
            classes = class_ids(truth.labels, drawn)
            remapped += classes.strays
            unknown += int((~classes.known).sum())
            scores.append(_semantic(pair, classes, predicted.labels))
        else:
            scores.append(_borders(truth, predicted, tolerance_px))
    notes = _notes(pairing, task, tolerance_px, remapped)
    if drawn.ignored is not None:
        notes += (f"{unknown} voxels whose true value is {drawn.ignored} were left out.",)
    return _report(pairing, task, scores, notes)


def read_labels(path: Path, axes: str | None = None, dataset: str | None = None) -> LabelImage:
    """A label image as integers. Raises InputError when the file is no label image."""
    with open_source(path, axes=axes, dataset=dataset) as source:
        if source.dtype.kind not in "iu":
            raise InputError(f"{path}: pixels of type {source.dtype}; a label image holds whole numbers.")
        if "C" in source.axes:
            raise InputError(f"{path}: {source.shape} ({source.axes}) has channels; a label image has none.")
        return LabelImage(source.read(Region.whole(source.shape)), source.voxel_size_um)


def class_ids(truth: Labels, drawn: Drawn) -> TrueClasses:
    """Class ids of a map; a grey value that is no class goes to the nearest one."""
    known = np.ones(truth.shape, bool) if drawn.ignored is None else truth != drawn.ignored
    if not drawn.values:
        return TrueClasses(truth, known, 0)
    order = np.argsort(drawn.values)
    values = np.asarray(drawn.values, np.int64)[order]
    middles = (values[1:] + values[:-1]) / 2
    ids = order[np.searchsorted(middles, truth)].astype(np.uint8)
    return TrueClasses(ids, known, int((known & ~np.isin(truth, values)).sum()))


def _instances(pair: Pair, truth: Labels, predicted: Labels, score_of: ScoreOf | None) -> Scores:
    try:
        return evaluate_instances(truth, predicted, score_of=score_of)
    except KeyError as error:
        raise InputError(
            f"{pair.predicted} holds the label {error}, which has no row in the table of objects beside it; "
            "expected files of one run. Repeat `cellengine infer`, or remove the table."
        ) from error


def _semantic(pair: Pair, classes: TrueClasses, predicted: Labels) -> Scores:
    everywhere = bool(classes.known.all())
    truth, predicted = (a if everywhere else a[classes.known] for a in (classes.ids, predicted))
    lowest = min(int(image.min(initial=0)) for image in (truth, predicted))
    highest = max(int(image.max(initial=0)) for image in (truth, predicted))
    if lowest < 0 or highest >= MOST_CLASSES:
        found = f"down to {lowest}" if lowest < 0 else f"up to {highest}"
        raise InputError(
            f"{pair.name}: values {found} in a map of classes; expected class ids from 0 and below {MOST_CLASSES}. "
            "If the truth is drawn in grey values, name them in order of the classes with --truth-values; --ignore "
            "names the value of voxels that do not count."
        )
    return evaluate_semantic(truth, predicted)


def _borders(truth: LabelImage, predicted: LabelImage, tolerance_px: float) -> BorderScores:
    return BorderScores(
        evaluate_boundaries(
            boundaries_of(truth.labels),
            boundaries_of(predicted.labels),
            tolerance_px,
            _spatial(truth) or _spatial(predicted),
        ),
        evaluate_partition(truth.labels, predicted.labels),
    )


def _spatial(image: LabelImage) -> tuple[float, ...] | None:
    """The voxel size where every axis of the image has one."""
    size = image.voxel_size_um
    return size if size is not None and len(size) == image.labels.ndim else None


def _score_tables(pairs: Sequence[Pair]) -> dict[str, ScoreOf]:
    """Confidence by label of every prediction, if each has a table with scores beside it; otherwise nothing."""
    tables = {pair.name: _score_table(pair.predicted) for pair in pairs}
    complete = {name: table for name, table in tables.items() if table is not None}
    return complete if len(complete) == len(pairs) else {}


def _score_table(predicted: Path) -> ScoreOf | None:
    stem, found, _ = predicted.name.partition(".labels.")
    table = predicted.with_name(f"{stem}.objects.csv")
    if not found or not table.is_file():
        return None
    columns = read_table(table)
    scores = columns.get("score")
    if "label" not in columns or scores is None or (scores.size and scores.dtype.kind not in "if"):
        return None  # not every decoder gives scores: the column is absent or empty
    return dict(zip(columns["label"].tolist(), scores.tolist(), strict=True))


def _report(pairing: Pairing, task: str, scores: Sequence[Scores], notes: tuple[str, ...]) -> Report:
    scores = _of_one_size(scores)
    total = summarise(scores)
    by_group: dict[str, list[Scores]] = {}
    for pair, score in zip(pairing.pairs, scores, strict=True):
        by_group.setdefault(pair.group, []).append(score)
    return Report(
        task=task,
        headline=HEADLINES[task],
        files=tuple(
            FileScores(
                pair.name,
                pair.group,
                score.row(),
                {"predicted": str(pair.predicted), "truth": str(pair.truth)},
                confusion_of(score),
            )
            for pair, score in zip(pairing.pairs, scores, strict=True)
        ),
        total=total,
        groups={group: summarise(members) for group, members in sorted(by_group.items())} if any(by_group) else {},
        notes=notes,
        classes=tuple(str(number) for number in range(len(total.confusion or ()))),
    )


def _of_one_size(scores: Sequence[Scores]) -> list[Scores]:
    """The scores with as many classes in every file as the file with most has; those of other tasks as they are."""
    most = max((len(score.confusion) for score in scores if isinstance(score, SemanticScores)), default=0)
    return [
        SemanticScores(np.pad(score.confusion, (0, most - len(score.confusion))))
        if isinstance(score, SemanticScores)
        else score
        for score in scores
    ]


def _notes(pairing: Pairing, task: str, tolerance_px: float, remapped: int) -> tuple[str, ...]:
    notes = []
    if pairing.unused:
        notes.append(f"{pairing.unused} prediction(s) without a truth were not evaluated.")
    if task == "boundary":
        notes.append(
            f"A boundary counts as found within {tolerance_px:g} px; VOI and Rand error leave out true background."
        )
    if remapped:
        notes.append(f"{remapped} voxels of the truth had a grey value that is no class and went to the nearest class.")
    return tuple(notes)


def _refuse_other_shape(pair: Pair, truth: Labels, predicted: Labels) -> None:
    if truth.shape != predicted.shape:
        raise InputError(
            f"{pair.predicted} has the shape {predicted.shape} but {pair.truth} has {truth.shape}; "
            "expected the same. Predict the picture that was annotated."
        )
