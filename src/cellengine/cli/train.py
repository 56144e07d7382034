"""`cellengine train`: from annotated pictures to a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from cellengine.errors import UsageError, missing_package


@click.command()
@click.argument("config", metavar="CONFIG|PRESET")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@click.option("--init", type=click.Path(path_type=Path), help="Start from the weights of this checkpoint.")
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a setting; may be repeated."
)
def command(config: str, output: Path, resume: bool, init: Path | None, overrides: tuple[str, ...]) -> None:
    """Train a model from a TOML configuration or a preset.

    The pictures are named by --set data.path=LIST.csv (columns image and label) or a folder with images/ and labels/.
    OUTPUT gets last.pt, best.pt, metrics.csv, curves.png, preview pictures and TensorBoard's files.
    """
    try:
        from cellengine.train.config import load_config
        from cellengine.train.loop import train
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "torch", "Training", 'pip install "cellengine[train]"') from error
    if resume and init:
        raise UsageError("--resume goes on from its own weights and --init starts from others: give one of them.")
    best = train(load_config(config, overrides), output, resume=resume, init=init, echo=click.echo)
    click.echo(f"best weights: {best}; next: cellengine export {output} -o model.onnx")
