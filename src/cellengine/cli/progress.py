"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from cellengine.engine.infer import Progress

PLAIN_EVERY_S = 15.0


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Tell how far `infer` is, on stderr."""
    if not sys.stderr.isatty():
        yield _plain()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tiles"), TimeRemainingColumn())
    with Bar(*columns, transient=True) as bar:
        task = bar.add_task("", total=None)
        count = 0

        def begin(name: str, tiles: int) -> None:
            nonlocal count
            count += 1
            bar.reset(task, total=tiles, description=f"{count}: {name}")

        yield Progress(begin, lambda tiles: bar.advance(task, tiles))


def _plain() -> Progress:
    """A line when a file begins after a while of silence, and every 15 s within one."""
    state = {"done": 0, "tiles": 0, "files": 0}
    last = time.monotonic()
    current = ""

    def say() -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_EVERY_S:
            last = time.monotonic()
            click.echo(f"file {state['files']} {current}: {state['done']} of {state['tiles']} tiles", err=True)

    def begin(name: str, tiles: int) -> None:
        nonlocal current
        current = name
        state.update(done=0, tiles=tiles, files=state["files"] + 1)
        say()

    def advance(tiles: int) -> None:
        state["done"] += tiles
        say()

    return Progress(begin, advance)
