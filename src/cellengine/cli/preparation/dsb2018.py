"""`cellengine prepare dsb2018`."""

from __future__ import annotations

from pathlib import Path

import click

from cellengine.cli.preparation import control, make_split, output_option, restart_option, split_options, tell
from cellengine.train.prepare.dsb2018 import Dsb2018Options, prepare_dsb2018


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@output_option
@split_options(0.15, 0.0)
@click.option("--tiles/--no-tiles", default=True, show_default=True, help="Keep neighbouring tiles in one split.")
@restart_option
def command(source: Path, output: Path, validation: float, test: float, seed: int, tiles: bool, restart: bool) -> None:
    """Prepare nuclei as Kaggle gave them out: SOURCE/<id>/images/<id>.png and SOURCE/<id>/masks/*.png.

    Masks become one label image a picture; where two overlap, the smaller nucleus keeps the pixels. Pictures that show
    the same, turned and mirrored copies too, and neighbouring tiles of one field of view stay in one split.
    """
    options = Dsb2018Options(make_split(validation, test, seed), tiles)
    with control(restart, "pictures") as run:
        finished = prepare_dsb2018(source, output, options, control=run)
    tell(finished, output)
