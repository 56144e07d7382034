"""`cellengine prepare crops`."""

from __future__ import annotations

from pathlib import Path

import click

from cellengine.cli.preparation import control, make_split, output_option, restart_option, sizes, split_options, tell
from cellengine.train.prepare.crops import CropOptions, prepare_crops


@click.command()
@click.argument("table", type=click.Path(path_type=Path))
@output_option
@click.option(
    "--pictures", type=click.Path(path_type=Path), help="CSV list of the pictures: label images, split, group."
)
@click.option("--size", default="48", show_default=True, help="Sides of the crops in px, e.g. 24,48,96.")
@split_options(0.15, 0.0)
@restart_option
def command(
    table: Path,
    output: Path,
    pictures: Path | None,
    size: str,
    validation: float,
    test: float,
    seed: int,
    restart: bool,
) -> None:
    """Prepare crops for a classifier, mirrored at the border, from TABLE: a CSV with one cell a row.

    It names the picture (image, file or frame), the class, and a box (xmin, ymin, xmax, ymax), or else the number of
    the cell in the picture's label image (column label), which --pictures names. A split in one of the lists is kept.
    """
    options = CropOptions(make_split(validation, test, seed), sizes(size))
    with control(restart, "pictures") as run:
        finished = prepare_crops(table, output, options, pictures=pictures, control=run)
    tell(finished, output)
