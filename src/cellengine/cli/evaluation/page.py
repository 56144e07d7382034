"""The evaluation as one self-contained page: scores, and pictures with truth in green and prediction in red."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellengine.cli.evaluation.answers import Answers
from cellengine.cli.evaluation.drawing import data_url, draw_outlines
from cellengine.cli.evaluation.pairing import Pair
from cellengine.cli.evaluation.pictures import RANKING, class_ids, read_labels
from cellengine.cli.evaluation.report import Entries, Report
from cellengine.errors import InputError
from cellengine.geometry import Region
from cellengine.io import open_source

MOST_PICTURES = 24
MOST_ROWS = 500
"""longer tables are in evaluation.csv"""

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882 }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } thead th { background: var(--soft) }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem }
figure { margin: 0 } img { width: 100%; image-rendering: pixelated; background: #000 }
figcaption { font-size: .85rem; overflow-wrap: anywhere }
.green { color: #18a050 } .red { color: #e03030 } .yellow { color: #b89000 }
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture and what it shows."""

    url: str
    alt: str
    caption: str


def page(report: Report, figures: Sequence[Figure], extra: str = "") -> str:
    """The whole page as HTML; `extra` is HTML that goes between the totals and the pictures."""
    legend = (
        '<p>Outlines: <span class="green">truth</span>, <span class="red">prediction</span>, '
        '<span class="yellow">both</span>. Worst first.</p>'
    )
    shown = "".join(
        f'<figure><img src="{one.url}" alt="{escape(one.alt, quote=True)}" loading="lazy">'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
        for one in figures
    )
    pictures = f'<h2>Pictures</h2>{legend if report.task in RANKING else ""}<div class="pictures">{shown}</div>'
    notes = "".join(f"<p>{escape(note)}</p>" for note in report.notes)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation: {escape(report.task)}</title><style>{STYLE}</style></head><body>"
        f"<h1>Evaluation: {escape(report.task)}, {report.total.files} file(s)</h1>{notes}"
        f"<h2>Scores</h2>{_summary_table(report)}{extra}"
        f"{pictures if figures else ''}<h2>Files</h2>{_file_table(report)}</body></html>\n"
    )


def worst_pictures(
    pairs: Sequence[Pair], report: Report, truth_values: Sequence[int], axes: str | None
) -> list[Figure]:
    """Drawings of the pairs with the lowest score, worst first."""
    entry = RANKING[report.task]
    ranked = sorted(zip(pairs, report.files, strict=True), key=lambda one: _sortable(one[1].entries[entry]))
    figures = []
    for pair, file in ranked[:MOST_PICTURES]:
        truth = class_ids(read_labels(pair.truth, axes, pair.dataset).labels, truth_values)[0]
        predicted = read_labels(pair.predicted).labels
        drawing, plane = draw_outlines(truth, predicted, _read_image(pair.image, truth.shape))
        scores = ", ".join(
            f"{_label(name)} {_number(file.entries[name])}" for name in _shortest(report, entry, file.entries)
        )
        where = f", plane {','.join(map(str, plane))}" if plane else ""
        group = f" ({file.group})" if file.group else ""
        figures.append(
            Figure(
                url=data_url(drawing),
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
            sure = "" if isnan(item.confidence) else f" with probability {_number(item.confidence)}"
            figures.append(Figure(data_url(pixels), item.name, f"{item.name}: {true}, called {given}{sure}"))
    return figures


def confusion_table(answers: Answers) -> str:
    """Items by true class (rows) and predicted class (columns), as HTML."""
    rows = [[name, *map(str, row)] for name, row in zip(answers.names, answers.scores.confusion.tolist(), strict=True)]
    return "<h2>Confusion</h2>" + _table(["true \\ predicted", *answers.names], rows)


def _summary_table(report: Report) -> str:
    rows: list[tuple[str, int, Entries]] = []
    for group, summary in report.groups.items():
        rows.append((group, summary.files, summary.mean or summary.pooled))
    if report.total.mean:
        rows.append(("all, mean over files", report.total.files, report.total.mean))
    rows.append(("all, pooled", report.total.files, report.total.pooled))
    names = list(dict.fromkeys([*report.headline, *report.total.pooled]))
    cells = [[name, str(files), *(_number(entries.get(n)) for n in names)] for name, files, entries in rows]
    return _table(["", "files", *map(_label, names)], cells)


def _file_table(report: Report) -> str:
    entry = RANKING.get(report.task, "right")
    files = sorted(report.files, key=lambda file: _sortable(file.entries[entry]))[:MOST_ROWS]
    names = [name for name in report.headline if name in files[0].entries] or list(files[0].entries)
    cells = [[file.name, file.group, *(_number(file.entries.get(name)) for name in names)] for file in files]
    more = len(report.files) - len(files)
    return _table(["file", "group", *map(_label, names)], cells) + (
        f"<p>{more} more files are in evaluation.csv.</p>" if more else ""
    )


def _table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


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


def _number(value: float | None) -> str:
    if value is None or isnan(value):
        return ""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.3f}"
