"""`cellengine prepare wbc`."""

from __future__ import annotations

from pathlib import Path

import click

from cellengine.cli.preparation import control, make_split, output_option, restart_option, split_options, tell
from cellengine.train.prepare.wbc import WbcOptions, prepare_wbc


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@output_option
@split_options(0.15, 0.0)
@click.option(
    "--size", type=click.IntRange(1), help="Make every picture a square of this side in px, nearest neighbour."
)
@restart_option
def command(
    source: Path, output: Path, validation: float, test: float, seed: int, size: int | None, restart: bool
) -> None:
    """Prepare white blood cells: SOURCE is a folder with 001.bmp beside 001.png, or a CSV list (image, mask).

    Grey values 0, 128 and 255 of the masks become the classes 0 background, 1 cytoplasm and 2 nucleus; other values go
    to the nearest and are counted.
    """
    options = WbcOptions(make_split(validation, test, seed), size)
    with control(restart, "pictures") as run:
        finished = prepare_wbc(source, output, options, control=run)
    tell(finished, output)
