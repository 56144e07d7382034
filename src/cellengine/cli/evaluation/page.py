"""The evaluation as one self-contained page: scores, and pictures with truth in green and prediction in red."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellengine.cli.evaluation.answers import Answers
from cellengine.cli.evaluation.drawing import draw_outlines
from cellengine.cli.evaluation.pairing import Pair
from cellengine.cli.evaluation.pictures import RANKING, Drawn, class_ids, read_labels
from cellengine.cli.evaluation.report import Entries, Report
from cellengine.errors import InputError
from cellengine.geometry import Region
from cellengine.io import open_source
from cellengine.io.previews import encode_png
from cellengine.pages.html import Figure, document, number, paragraph, png_url, section, table
from cellengine.pages.html import figures as html_figures

MOST_PICTURES = 24
MOST_ROWS = 500
"""longer tables are in evaluation.csv"""


def page(report: Report, figures: Sequence[Figure]) -> str:
    """The whole page as HTML."""
    legend = (
        '<p>Outlines: <span class="green">truth</span>, <span class="red">prediction</span>, '
        '<span class="yellow">both</span>. Worst first.</p>'
    )
    pictures = section("Pictures", legend if report.task in RANKING else "", html_figures(figures)) if figures else ""
    return document(
        f"Evaluation: {report.task}, {report.total.files} file(s)",
        "".join(paragraph(note) for note in report.notes)
        + section("Scores", _summary_table(report))
        + _confusion_table(report)
        + pictures
        + section("Files", _file_table(report)),
    )


def worst_pictures(pairs: Sequence[Pair], report: Report, drawn: Drawn, axes: str | None) -> list[Figure]:
    """Drawings of the pairs with the lowest score, worst first."""
    entry = RANKING[report.task]
    ranked = sorted(zip(pairs, report.files, strict=True), key=lambda one: _sortable(one[1].entries[entry]))
    figures = []
    for pair, file in ranked[:MOST_PICTURES]:
        true = class_ids(read_labels(pair.truth, axes, pair.dataset).labels, drawn)
        # what nobody knows is no mistake: it is drawn as background on both sides
        truth, predicted = (np.where(true.known, a, 0) for a in (true.ids, read_labels(pair.predicted).labels))
        drawing, plane = draw_outlines(truth, predicted, _read_image(pair.image, truth.shape))
        scores = ", ".join(
            f"{_label(name)} {number(file.entries[name])}" for name in _shortest(report, entry, file.entries)
        )
        where = f", plane {','.join(map(str, plane))}" if plane else ""
        group = f" ({file.group})" if file.group else ""
        figures.append(
            Figure(
                url=png_url(encode_png(drawing)),
                alt=f"Outlines of truth and prediction on {file.name}",
                caption=f"{file.name}{group}{where}: {scores}",
            )
        )
    return figures


def worst_answers(answers: Answers) -> list[Figure]:
    """The pictures that were classified wrongly, the surest mistakes first, as far as the pictures can be read."""
    wrong = [item for item in answers.items if item.true != item.predicted]
    wrong.sort(key=lambda item: -_sortable(item.confidence))
    figures = []
    for item in wrong[:MOST_PICTURES]:
        pixels = _read_picture(item.image)
        if pixels is not None:
            true, given = answers.names[item.true], answers.names[item.predicted]
            sure = "" if isnan(item.confidence) else f" with probability {number(item.confidence)}"
            figures.append(Figure(png_url(encode_png(pixels)), item.name, f"{item.name}: {true}, called {given}{sure}"))
    return figures


def _confusion_table(report: Report) -> str:
    """Voxels or items by true class (rows) and predicted class (columns); nothing where there are no classes."""
    if report.total.confusion is None:
        return ""
    rows = [[name, *map(str, row)] for name, row in zip(report.classes, report.total.confusion, strict=True)]
    return section("Confusion", table(["true \\ predicted", *report.classes], rows))


def _summary_table(report: Report) -> str:
    rows: list[tuple[str, int, Entries]] = []
    for group, summary in report.groups.items():
        rows.append((group, summary.files, summary.mean or summary.pooled))
    if report.total.mean:
        rows.append(("all, mean over files", report.total.files, report.total.mean))
    rows.append(("all, pooled", report.total.files, report.total.pooled))
    names = list(dict.fromkeys([*report.headline, *report.total.pooled]))
    cells = [[name, str(files), *(number(entries.get(n)) for n in names)] for name, files, entries in rows]
    return table(["", "files", *map(_label, names)], cells)


def _file_table(report: Report) -> str:
    entry = RANKING.get(report.task, "right")
    files = sorted(report.files, key=lambda file: _sortable(file.entries[entry]))[:MOST_ROWS]
    names = [name for name in report.headline if name in files[0].entries] or list(files[0].entries)
    cells = [[file.name, file.group, *(number(file.entries.get(name)) for name in names)] for file in files]
    more = len(report.files) - len(files)
    return table(["file", "group", *map(_label, names)], cells) + (
        f"<p>{more} more files are in evaluation.csv.</p>" if more else ""
    )


def _shortest(report: Report, entry: str, entries: Mapping[str, float]) -> list[str]:
    """The entry that ranks, and the first two others of the headline."""
    others = [name for name in report.headline if name != entry and name in entries]
    return [entry, *others[:2]]


def _read_image(path: Path | None, shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
    """The picture behind a label image of `shape`, colour last; None when it cannot be read or does not fit."""
    if path is None:
        return None
    try:
        with open_source(path) as source:
            pixels = source.read(Region.whole(source.shape))
            axes = source.axes
            is_rgb = source.is_rgb
    except InputError:
        return None
    if "C" in axes:
        channel = axes.index("C")
        pixels = np.moveaxis(pixels, channel, -1) if is_rgb else pixels.mean(axis=channel)
    fits = pixels.shape[: len(shape)] == shape
    return pixels if fits else None


def _read_picture(path: Path | None) -> npt.NDArray[np.uint8] | None:
    """A small 2D picture as colour."""
    if path is None or not path.is_file():
        return None
    try:
        with open_source(path) as source:
            shape = tuple(n for n, axis in zip(source.shape, source.axes, strict=True) if axis != "C")
    except InputError:
        return None
    image = _read_image(path, shape)
    if image is None or len(shape) != 2:
        return None
    nothing = np.zeros(shape, np.uint8)
    return draw_outlines(nothing, nothing, image)[0]


def _sortable(value: float) -> float:
    """Undefined scores go last."""
    return float("inf") if isnan(value) else value


def _label(name: str) -> str:
    return name.replace("_", " ")
