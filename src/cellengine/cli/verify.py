"""`cellengine verify`: is an output folder still what `infer` wrote?"""

from __future__ import annotations

from pathlib import Path

import click

from cellengine.engine.verify import verify_output
from cellengine.errors import InputError


@click.command()
@click.argument("output", type=click.Path(path_type=Path), metavar="FOLDER")
def command(output: Path) -> None:
    """Compare the files in FOLDER, an output of `cellengine infer`, with the checksums that run.json recorded.

    Lists what differs. Exit code 0: all is as it was written; 3: something is not, or the run is not finished.
    """
    found = verify_output(output)
    for line in found.differing:
        click.echo(line)
    if found.differing:
        raise InputError(
            f"{output}: {len(found.differing)} of {found.outputs} outputs are not as they were written: "
            "copy them again, or run the same `cellengine infer` with --restart."
        )
    if not found.complete:
        raise InputError(
            f"{output}: the {found.outputs} outputs of {found.inputs} finished inputs are as they were written, "
            "but the run is not finished: run the same `cellengine infer` again."
        )
    click.echo(f"{output}: all {found.outputs} outputs of {found.inputs} inputs are as they were written")
