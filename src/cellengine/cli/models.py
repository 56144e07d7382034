"""`cellengine models`: what comes with the package."""

from __future__ import annotations

import click

from cellengine.cli.tables import print_table
from cellengine.engine.backends import OWN_FILE
from cellengine.engine.model_file import ModelFile, find_form, read_model_file
from cellengine.zoo import bundled

COLUMNS = ("name", "task", "axes", "channels", "size", "metrics", "verified", "licence")


@click.command()
def command() -> None:
    """List the models that come with the package: give a name to `cellengine infer -m`.

    `cellengine info NAME` tells more about one.
    """
    models = [read_model_file(path) for path in bundled().values()]
    if not models:
        click.echo("No models are bundled in this installation; give a file to -m, or make one with cellengine train.")
        return
    print_table("Bundled models", COLUMNS, [_row(model) for model in models])


def _row(model: ModelFile) -> tuple[str, ...]:
    spec = model.spec
    return (
        model.path.stem,
        spec.task,
        spec.axes,
        ", ".join(spec.channels),
        f"{len(model.content) / 1e6:.1f} MB",
        ", ".join(f"{name} {value:.3g}" for name, value in spec.metrics.items()) or "-",
        ", ".join(dict.fromkeys(("fp32", *spec.precisions, *_forms(model)))),
        spec.licence or "-",
    )


def _forms(model: ModelFile) -> list[str]:
    """Precisions that lie beside the model in files of their own."""
    return [form for form in OWN_FILE if find_form(model, form) is not None]
