"""`cellengine export`: from a checkpoint to one portable, verified model file."""

from __future__ import annotations

from pathlib import Path

import click

from cellengine.errors import ModelError, UsageError, missing_package


@click.command()
@click.argument("run", metavar="RUN|CHECKPOINT", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.onnx",
    help="The model file to write.",
)
@click.option("--precision", default="fp32,bf16", show_default=True, help="Precisions to verify, comma-separated.")
@click.option(
    "--verify-on",
    metavar="LIST|FOLDER",
    help="Annotated pictures to verify on; default: the run's own validation pictures.",
)
def command(run: Path, output: Path, precision: str, verify_on: str | None) -> None:
    """Write the model of a training run as one ONNX file, verified on real pictures.

    The file holds graph, weights, spec and a golden test. Every precision must find the same objects as fp32 PyTorch;
    otherwise no file is written.
    """
    try:
        from cellengine.export.checkpoint import export_checkpoint
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "torch", "Export", 'pip install "cellengine[train]"') from error
    if output.suffix != ".onnx":
        raise UsageError(f"--output {output}: expected a name that ends in .onnx.")
    checkpoint = run / "best.pt" if run.is_dir() else run
    if not checkpoint.exists():
        raise ModelError(f"{checkpoint} does not exist: give the folder of a training run, or a checkpoint.")
    precisions = tuple(dict.fromkeys(["fp32", *precision.split(",")]))
    spec = export_checkpoint(checkpoint, output, precisions, verify_on, click.echo)
    click.echo(f"{output}: {spec.name}, {output.stat().st_size / 1e6:.1f} MB, verified in {', '.join(spec.precisions)}")
