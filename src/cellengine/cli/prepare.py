"""`cellengine prepare KIND`: data as they were published or annotated become lists for training and evaluation."""

from __future__ import annotations

import click

from cellengine.cli import LazyGroup

KINDS = {
    "dsb2018": "Nuclei as Kaggle gave them out: <id>/images and one mask a nucleus in <id>/masks.",
    "wbc": "White blood cells: pictures, and masks of the grey values 0, 128 and 255.",
    "volumes": "Pairs of volumes and label volumes: type, size, gaps between cells, boundary targets.",
    "cellspotting": "Clicks of many users on live and dead cells: consensus, and crops of any sizes.",
    "crops": "Crops for a classifier around boxes or labelled cells of known class.",
}
"""name -> one line of help, known without loading `cellengine.cli.preparation.<name>`"""


class Kinds(LazyGroup):
    """The kinds of data, each in a file of its own."""

    package = "cellengine.cli.preparation"
    known = KINDS


@click.command(cls=Kinds)
def command() -> None:
    """Turn data as they were published or annotated into lists that `train` and `evaluate` read.

    OUTPUT gets the pictures, list.csv (crops: one list a size), overview.png, report.html, report.json and defects.csv.
    The same command goes on after it was stopped; what is wrong with the data is listed and left out.
    """
