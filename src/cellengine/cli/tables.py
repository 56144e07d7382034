"""Tables on the terminal; where the output is no terminal, wide enough that nothing is folded."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

PLAIN_WIDTH = 200
"""columns where the output is no terminal"""


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], headed: bool = True) -> None:
    """Print rows of text under a title; texts are taken literally."""
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    table = Table(show_header=headed, box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)
    console.print(table)
