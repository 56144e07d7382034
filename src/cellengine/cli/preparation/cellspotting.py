"""`cellengine prepare cellspotting`."""

from __future__ import annotations

from pathlib import Path

import click

from cellengine.cli.preparation import control, make_split, output_option, restart_option, sizes, split_options, tell
from cellengine.errors import UsageError
from cellengine.train.prepare.cellspotting import CellspottingOptions, prepare_cellspotting

ESTIMATE = "estimate"


@click.command()
@click.argument("clicks", type=click.Path(path_type=Path))
@click.argument("pictures", type=click.Path(path_type=Path))
@output_option
@click.option(
    "--radius", default="35", show_default=True, help=f"Clicks nearer than this are one cell, px; or {ESTIMATE}."
)
@click.option(
    "--support",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of users who must have clicked.",
)
@click.option("--size", default="90,95,100,128", show_default=True, help="Sides of the crops in px.")
@click.option("--balance/--no-balance", default=True, show_default=True, help="As many live cells as dead ones.")
@split_options(0.1, 0.1)
@restart_option
def command(
    clicks: Path,
    pictures: Path,
    output: Path,
    radius: str,
    support: float,
    size: str,
    balance: bool,
    validation: float,
    test: float,
    seed: int,
    restart: bool,
) -> None:
    """Prepare live and dead cells from CLICKS, a JSON file of what users clicked on in the folder PICTURES.

    CLICKS is {"a.png": [[["alive", x, y], ["dead", x, y]], ...one list a user], ...}, or a list of tasks
    {"picture": "a.png", "user": "u1", "clicks": [["not_sure_alive", x, y], ...]}. Crops that leave the picture and
    empty ones are reported and left out.
    """
    options = CellspottingOptions(
        split=make_split(validation, test, seed),
        radius_px=_radius(radius),
        min_support=support,
        sizes_px=sizes(size),
        balance=balance,
    )
    with control(restart, "pictures") as run:
        finished = prepare_cellspotting(clicks, pictures, output, options, control=run)
    tell(finished, output)


def _radius(text: str) -> float | None:
    if text == ESTIMATE:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise UsageError(f"--radius {text}: expected a positive number of pixels, or {ESTIMATE}.")
    return value
