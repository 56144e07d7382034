"""`cellengine export`: from a checkpoint to one portable, verified model file."""

from __future__ import annotations

from pathlib import Path

import click

from cellengine.engine.backends import OWN_FILE, PRECISIONS
from cellengine.engine.model_file import form_path
from cellengine.errors import ModelError, UsageError, missing_package


@click.command()
@click.argument("run", metavar="RUN|CHECKPOINT|MODEL", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.onnx",
    help="The model file to write.",
)
@click.option(
    "--precision",
    default="fp32,bf16",
    show_default=True,
    help="Precisions to verify, comma-separated: fp32, bf16, fp16, int8. fp16 and int8 are files beside the model.",
)
@click.option(
    "--verify-on",
    metavar="LIST|FOLDER",
    help="Annotated pictures to verify on; default: the run's own validation pictures.",
)
@click.option(
    "--calibrate",
    metavar="IMAGES",
    help="Pictures that the ranges of int8 are measured on; default: those the run was trained on.",
)
def command(run: Path, output: Path, precision: str, verify_on: str | None, calibrate: str | None) -> None:
    """Write the model of a training run as one ONNX file, verified on real pictures.

    The file holds graph, weights, spec and a golden test. Every precision must find the same objects as fp32 PyTorch;
    otherwise no file is written. Given a MODEL that is exported already, its forms for fp16 and int8 are made.
    """
    try:
        from cellengine.export.checkpoint import export_checkpoint, export_file
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "torch", "Export", 'pip install "cellengine[train]"') from error
    if output.suffix != ".onnx":
        raise UsageError(f"--output {output}: expected a name that ends in .onnx.")
    precisions = tuple(dict.fromkeys(["fp32", *precision.split(",")]))
    if unknown := [name for name in precisions if name not in PRECISIONS]:
        raise UsageError(f"Unknown precision {unknown[0]}; known are {', '.join(PRECISIONS)}.")
    checkpoint = run / "best.pt" if run.is_dir() else run
    if not checkpoint.exists():
        raise ModelError(f"{checkpoint} does not exist: give the folder of a training run, a checkpoint, or a model.")
    export = export_file if checkpoint.suffix == ".onnx" else export_checkpoint
    spec = export(checkpoint, output, precisions, verify_on, click.echo, calibrate)
    click.echo(f"{output}: {spec.name}, {output.stat().st_size / 1e6:.1f} MB, verified in {', '.join(spec.precisions)}")
    for path in [form_path(output, name) for name in precisions if name in OWN_FILE]:
        click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
