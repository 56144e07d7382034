"""`cellengine evaluate`: how well predictions agree with the truth."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from math import isnan
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from cellengine.cli.evaluation.answers import evaluate_answers
from cellengine.cli.evaluation.page import page, worst_answers, worst_pictures
from cellengine.cli.evaluation.pairing import Pair, pair_files
from cellengine.cli.evaluation.pictures import Drawn, evaluate_pictures
from cellengine.cli.evaluation.report import Entries, Report, write_confusion, write_csv, write_json, write_text
from cellengine.errors import UsageError

FEW_FILES = 20
"""up to here the printed table lists single files"""

PLAIN_WIDTH = 200
"""columns of the printed table where the output is no terminal"""

TASKS = ("instances", "semantic", "boundary", "classes")
DEFAULT_TOLERANCE_PX = 2.0


@click.command()
@click.argument("predicted", type=click.Path(path_type=Path))
@click.argument("truth", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder for evaluation.csv, .json, .html; confusion.csv."
)
@click.option("--task", type=click.Choice(TASKS), default="instances", show_default=True, help="What the files hold.")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Rows of the TRUTH list that count; repeatable.")
@click.option("--by", metavar="COLUMN", help="Column of the TRUTH list that groups the scores.")
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the pictures, for the drawings.")
@click.option("--axes", help="What the axes of the TRUTH files are, where they do not say: e.g. ZYX.")
@click.option("--tolerance", type=click.FloatRange(0), help="boundary: how far off counts as found, in px; default 2.")
@click.option("--truth-values", metavar="N,N...", help="semantic: grey values of TRUTH in order of the classes.")
@click.option("--ignore", type=int, metavar="N", help="semantic: value of TRUTH where nobody knows; does not count.")
def command(
    predicted: Path,
    truth: Path,
    output: Path | None,
    task: str,
    where: tuple[str, ...],
    by: str | None,
    images: Path | None,
    axes: str | None,
    tolerance: float | None,
    truth_values: str | None,
    ignore: int | None,
) -> None:
    """Compare PREDICTED with TRUTH and print the scores.

    PREDICTED is a label image, a folder such as the output of `cellengine infer`, or the classes.csv of a classifier.
    TRUTH is a label image, a folder, or a CSV list with a column `label` or `mask` (for classes: `file`, `image` or
    `id`, and `class`). Files belong together by name: cell.labels.tif answers cell.png. Every truth needs a
    prediction; predictions without a truth are not evaluated.
    """
    _refuse_strange_options(task, tolerance, {"--truth-values": truth_values, "--ignore": ignore}, images, output)
    conditions = _conditions(where)
    if task == "classes":
        answers, report = evaluate_answers(predicted, truth, conditions, by)
        _print(report)
        if output:
            _write(report, output, page(report, worst_answers(answers)))
        return
    drawn = Drawn(_values(truth_values), ignore)
    if ignore in drawn.values:
        raise UsageError(f"--ignore {ignore} is one of --truth-values, which are classes: expected another number.")
    pairing = pair_files(predicted, truth, conditions, by, images)
    report = evaluate_pictures(pairing, task, _tolerance(tolerance), drawn, axes, _tracked)
    _print(report)
    if output:
        _write(report, output, page(report, worst_pictures(pairing.pairs, report, drawn, axes)))


def _refuse_strange_options(
    task: str,
    tolerance: float | None,
    of_maps: Mapping[str, object],
    images: Path | None,
    output: Path | None,
) -> None:
    """An option that would do nothing is a mistake of the user's that he should hear of."""
    if tolerance is not None and task != "boundary":
        raise UsageError(f"--tolerance belongs to --task boundary; the task is {task}.")
    for option, value in of_maps.items():
        if value is not None and task != "semantic":
            raise UsageError(f"{option} belongs to --task semantic; the task is {task}.")
    if images is not None and task == "classes":
        raise UsageError("--images is not used by --task classes: TRUTH names the pictures.")
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; expected a folder for the results.")


def _conditions(texts: tuple[str, ...]) -> dict[str, str]:
    conditions: dict[str, str] = {}
    for text in texts:
        column, found, value = text.partition("=")
        if not found or not column:
            raise UsageError(f"--where {text!r}: expected COLUMN=VALUE, e.g. split=val.")
        if column in conditions:
            raise UsageError(f"--where {column} is given twice; expected one value a column.")
        conditions[column] = value
    return conditions


def _tolerance(given: float | None) -> float:
    return DEFAULT_TOLERANCE_PX if given is None else given


def _values(text: str | None) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    if not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--truth-values {text!r}: expected whole numbers, e.g. 0,128,255.")
    values = tuple(int(part) for part in parts)
    if len(set(values)) < len(values):
        raise UsageError(f"--truth-values {text!r}: expected different numbers.")
    return values


def _tracked(pairs: Iterable[Pair]) -> Iterable[Pair]:
    """A bar on a terminal; nothing elsewhere, where the table comes soon enough."""
    console = Console(stderr=True)
    return track(pairs, "evaluating", console=console, transient=True, disable=not sys.stderr.isatty())


def _print(report: Report) -> None:
    table = Table(title=f"{report.task}, {report.total.files} file(s)", title_justify="left")
    table.add_column("")
    table.add_column("files", justify="right")
    for name in report.headline:
        table.add_column(name.replace("_", " "), justify="right")
    if len(report.files) <= FEW_FILES and report.total.mean:
        for file in report.files:
            _add_row(table, report, file.name, 1, file.entries)
        table.add_section()
    for group, summary in report.groups.items():
        _add_row(table, report, group, summary.files, summary.mean or summary.pooled)
    table.add_section()
    if report.total.mean:
        _add_row(table, report, "all, mean over files", report.total.files, report.total.mean)
    _add_row(table, report, "all, pooled", report.total.files, report.total.pooled)
    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table)
    for note in report.notes:
        click.echo(note)


def _add_row(table: Table, report: Report, name: str, files: int, entries: Entries) -> None:
    table.add_row(escape(name), str(files), *(_number(entries.get(entry)) for entry in report.headline))


def _number(value: float | None) -> str:
    if value is None or isnan(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _write(report: Report, output: Path, html: str) -> None:
    output.mkdir(parents=True, exist_ok=True)
    write_csv(report, output / "evaluation.csv")
    write_json(report, output / "evaluation.json")
    write_text(output / "evaluation.html", html)
    written = "evaluation.csv, evaluation.json, evaluation.html"
    if report.classes:
        write_confusion(report, output / "confusion.csv")
        written += ", confusion.csv"
    click.echo(f"Scores by file, totals and pictures are in {output}: {written}.")
