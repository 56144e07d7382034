"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from cellengine.engine.run import Progress

PLAIN_EVERY_S = 15.0


@contextmanager
def show_progress(unit: str = "tiles") -> Iterator[Progress]:
    """Tell on stderr how far a run is, counted in `unit`."""
    if not sys.stderr.isatty():
        yield _Plain(unit).progress()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Bar(*columns, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield Progress(
            lambda name, tiles: bar.reset(task, total=tiles, description=name), lambda tiles: bar.advance(task, tiles)
        )


def seconds_by_stage(record: Mapping[str, Any]) -> str:
    """The time that a file took, and what took it: "2.31 s (scale 0.02, network 1.90, ...)"."""
    seconds = record["seconds"]
    stages = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items() if name != "total")
    return f"{seconds['total']:.2f} s ({stages})"


class _Plain:
    """A line every 15 s: a run that takes less says nothing before its report."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._name, self._tiles, self._done = "", 0, 0
        self._said = self._begun = time.monotonic()

    def progress(self) -> Progress:
        return Progress(self._begin, self._advance)

    def _begin(self, name: str, tiles: int) -> None:
        self._name, self._tiles, self._done = name, tiles, 0
        self._begun = time.monotonic()
        self._say()

    def _advance(self, tiles: int) -> None:
        self._done += tiles
        self._say()

    def _say(self) -> None:
        now = time.monotonic()
        if now - self._said < PLAIN_EVERY_S:
            return
        self._said = now
        left = (now - self._begun) * (self._tiles - self._done) / self._done if self._done else None
        until = "" if left is None else f", {left:.0f} s left in it"
        click.echo(f"{self._name}: {self._done} of {self._tiles} {self._unit}{until}", err=True)
