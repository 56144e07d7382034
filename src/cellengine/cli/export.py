"""`cellengine export`: from a checkpoint to one portable, verified model file."""

from __future__ import annotations

from pathlib import Path

import click

from cellengine.engine.backends import BACKENDS, OWN_FILE, PRECISIONS
from cellengine.engine.model_file import form_path, read_model_file, resolve_model
from cellengine.errors import DeviceError, ModelError, UsageError, missing_package


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
@click.option(
    "--svd-rank",
    type=click.IntRange(min=1),
    metavar="K",
    help="Detectors: replace the large layers of the box head by truncated ones of this rank.",
)
@click.option(
    "--average",
    type=(str, click.FloatRange(0, 1)),
    metavar="MODEL SHARE",
    help="Export the mean with the model that the run started from, say nuclei 0.3: it keeps what that one knew.",
)
@click.option(
    "--bioimageio",
    type=click.Path(path_type=Path),
    metavar="FILE.zip",
    help="Also write a package for Fiji, ilastik, QuPath and napari.",
)
@click.option(
    "--tensorrt", is_flag=True, help="Also build the engines for this machine's GPU, so that infer finds them."
)
def command(
    run: Path,
    output: Path,
    precision: str,
    verify_on: str | None,
    calibrate: str | None,
    svd_rank: int | None,
    average: tuple[str, float] | None,
    bioimageio: Path | None,
    tensorrt: bool,
) -> None:
    """Write the model of a training run as one ONNX file, verified on real pictures.

    The file holds graph, weights, spec and a golden test. Every precision must find the same objects as fp32 PyTorch;
    otherwise no file is written. Given a MODEL that is exported already, the precisions
    that its file does not hold yet are verified and added, and its forms for fp16 and int8 are made.
    """
    try:
        from cellengine.export.bioimageio import write_package
        from cellengine.export.checkpoint import export_checkpoint, export_file
        from cellengine.train.place import keep_freed_memory
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "torch", "Export", 'pip install "cellengine[train]"') from error
    if output.suffix != ".onnx":
        raise UsageError(f"--output {output}: expected a name that ends in .onnx.")
    if bioimageio is not None and bioimageio.suffix != ".zip":
        raise UsageError(f"--bioimageio {bioimageio}: expected a name that ends in .zip.")
    if tensorrt and (problem := BACKENDS["tensorrt"]().why_not("cuda:0", "fp32")):
        raise DeviceError(f"--tensorrt cannot build here: {problem}.")
    keep_freed_memory()
    precisions = tuple(dict.fromkeys(["fp32", *precision.split(",")]))
    if unknown := [name for name in precisions if name not in PRECISIONS]:
        raise UsageError(f"Unknown precision {unknown[0]}; known are {', '.join(PRECISIONS)}.")
    checkpoint = run / "best.pt" if run.is_dir() else run
    if not checkpoint.exists():
        raise ModelError(f"{checkpoint} does not exist: give the folder of a training run, a checkpoint, or a model.")
    if checkpoint.suffix == ".onnx":
        for name, value in (("--svd-rank", svd_rank), ("--average", average)):
            if value is not None:
                raise UsageError(
                    f"{name} works on the weights of a training run: name the run, not the exported model."
                )
        spec = export_file(checkpoint, output, precisions, verify_on, click.echo, calibrate)
    else:
        mean = None if average is None else (resolve_model(average[0]), average[1])
        spec = export_checkpoint(checkpoint, output, precisions, verify_on, click.echo, calibrate, svd_rank, mean)
    click.echo(f"{output}: {spec.name}, {output.stat().st_size / 1e6:.1f} MB, verified in {', '.join(spec.precisions)}")
    forms = {name: form_path(output, name) for name in precisions if name in OWN_FILE}
    for path in forms.values():
        click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if bioimageio is not None:
        write_package(read_model_file(output), bioimageio)
        click.echo(f"{bioimageio}: a package for the BioImage Model Zoo and its programs")
    if tensorrt:
        _build_engines({"fp32": output, **forms})


def _build_engines(files: dict[str, Path]) -> None:
    """Open each file that TensorRT takes once, which fills the cache."""
    backend = BACKENDS["tensorrt"]()
    for precision, path in files.items():
        if precision in backend.precisions("cuda:0"):
            backend.open(read_model_file(path), "cuda:0", precision, None).close()
            click.echo(f"{path}: its TensorRT engine is in the cache")
