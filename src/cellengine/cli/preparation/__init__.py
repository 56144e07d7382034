"""The kinds of `cellengine prepare`, one file each, and what their commands share: options, and what is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click

from cellengine.cli.progress import show_progress
from cellengine.errors import UsageError
from cellengine.train.prepare.frame import Control, Defect, Finished
from cellengine.train.prepare.pictures import SplitOptions

Function = TypeVar("Function", bound=Callable[..., None])

SHOWN = 10
"""defects that are printed before the work; all of them are in defects.csv"""

output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for what is prepared."
)
restart_option = click.option("--restart", is_flag=True, help="Forget an earlier run in the same folder.")


def split_options(validation: float, test: float) -> Callable[[Function], Function]:
    """The options --validation, --test and --seed, with these defaults."""

    def add(function: Function) -> Function:
        function = click.option("--seed", type=int, default=1, show_default=True, help="Of the split.")(function)
        function = click.option(
            "--test", type=float, default=test, show_default=True, help="Share of the items kept for a last test."
        )(function)
        return click.option(
            "--validation", type=float, default=validation, show_default=True, help="Share of the items, 0 to 1."
        )(function)

    return add


def make_split(validation: float, test: float, seed: int) -> SplitOptions:
    """The shares of the splits. Raises UsageError."""
    try:
        return SplitOptions(validation, test, seed)
    except ValueError as error:
        raise UsageError(f"--validation and --test: {error}.") from error


def numbers(option: str, text: str | None, count: int) -> tuple[float, ...] | None:
    """`count` positive numbers with commas between them, such as z,y,x. Raises UsageError."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text}: expected {count} numbers, for example 4,8,8.") from error
    if len(values) != count or min(values) <= 0:
        raise UsageError(f"{option} {text}: expected {count} positive numbers, for example 4,8,8.")
    return values


def sizes(text: str) -> tuple[int, ...]:
    """Sides of crops: positive whole numbers with commas between them, each once. Raises UsageError."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--size {text}: expected whole numbers of pixels, for example 48 or 90,100,128.")
    return tuple(dict.fromkeys(int(part) for part in parts))


@contextmanager
def control(restart: bool, unit: str) -> Iterator[Control]:
    """A run that shows its progress, counted in `unit`, and the defects that are found before it."""
    with show_progress(unit) as progress:
        yield Control(restart, progress, _announce)


def tell(finished: Finished, output: Path) -> None:
    """The end of a run, in a few lines."""
    if finished.was_complete:
        click.echo(f"{output} is complete; nothing to do. --restart prepares it again.")
    for line in finished.lines:
        click.echo(line)


def _announce(defects: Sequence[Defect]) -> None:
    for defect in defects[:SHOWN]:
        click.echo(f"{defect.item}: {defect.problem} ({defect.consequence})", err=True)
    if len(defects) > SHOWN:
        click.echo(f"and {len(defects) - SHOWN} defects more; see defects.csv at the end", err=True)
