"""`cellengine infer`: from pictures to labelled cells and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from cellengine.cli.progress import show_progress
from cellengine.engine.batch import Device, Summary, infer_files
from cellengine.engine.options import InferOptions
from cellengine.errors import UsageError


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-m", "--model", default="nuclei", show_default=True, help="Bundled model name, or a model.onnx file.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@click.option("--axes", help="What the file's axes are, in its order, where it does not say: e.g. ZYX, TYX, CYX.")
@click.option("--channel", help="Channels that feed the model, by number (from 0) or name: e.g. 0 or 2,1,0.")
@click.option("--timepoint", type=int, help="Label only this time point (from 0).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or cuda:0.")
@click.option("--backend", default="auto", show_default=True, help="auto, onnxruntime, or openvino.")
@click.option("--precision", help="fp32 or bf16; default: the fastest that the model was verified in.")
@click.option("--tile", help="Tile side in px: N, or one per axis (y,x).")
@click.option("--halo", default="auto", show_default=True, help="px around each tile: auto (measured), exact (receptive field), or N.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Tiles per call of the network.")
@click.option("--format", "form", type=click.Choice(["auto", "tif", "ome-zarr"]), default="auto", show_default=True, help="File format of the labels.")
@click.option("--nan", type=click.Choice(["error", "zero"]), default="error", show_default=True, help="NaN and infinite values: refuse, or take as 0.")
@click.option("--missing", type=click.Choice(["warn", "error"]), default="warn", show_default=True, help="Absent chunks of a Zarr: warn, or refuse.")
@click.option("--on-error", type=click.Choice(["skip", "stop"]), default="skip", show_default=True, help="After a bad file: go on with the others, or stop.")
@click.option("--resume/--restart", default=True, show_default=True, help="Go on with an unfinished run in OUT, or begin anew.")
def command(  # noqa: PLR0913
    inputs: tuple[str, ...],
    model: str,
    output: Path,
    axes: str | None,
    channel: str | None,
    timepoint: int | None,
    device: str,
    backend: str,
    precision: str | None,
    tile: str | None,
    halo: str,
    batch: int,
    form: Literal["auto", "tif", "ome-zarr"],
    nan: Literal["error", "zero"],
    missing: Literal["warn", "error"],
    on_error: Literal["skip", "stop"],
    resume: bool,
) -> None:
    """Label the objects in INPUT (files, folders, globs or OME-Zarr) and measure them.

    OUT gets, per input: STEM.labels.tif (uint32), STEM.objects.csv (one row an object) and STEM.overlay.png, and one
    run.json. An unfinished run of the same inputs, model and settings goes on where it stopped.
    """
    options = InferOptions(
        axes=axes,
        channel=tuple(channel.split(",")) if channel else (),
        timepoint=timepoint,
        tile=_numbers("--tile", tile) if tile else None,
        halo=_halo(halo),
        nan=nan,
        missing=missing,
        batch=batch,
        format=form,
        on_error=on_error,
    )
    with show_progress() as progress:
        summary = infer_files(
            inputs, model, output, options, Device(device, backend, precision), restart=not resume, progress=progress
        )
    _report(summary, output)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"{option} {text!r}: expected whole numbers of px, e.g. 512 or 512,512.")
    return tuple(int(part) for part in parts)


def _halo(text: str) -> int | Literal["auto", "exact"]:
    if text == "auto" or text == "exact":
        return text
    if text.isdigit():
        return int(text)
    raise UsageError(f"--halo {text!r}: expected auto, exact, or a whole number of px.")


def _report(summary: Summary, output: Path) -> None:
    """What a user wants to know at the end: how much was found, how, and where to look."""
    records = summary.records
    if summary.already_complete:
        click.echo(f"{output} already holds this run, complete: nothing to do (--restart does it again).")
        return
    for name, record in list(records.items())[:20]:
        for warning in record["warnings"]:
            click.echo(f"warning: {warning}", err=True)
        seconds = record["seconds"]
        shares = ", ".join(f"{k} {v:.2f}" for k, v in seconds.items() if k != "total")
        click.echo(f"{name}: {record['objects']} objects in {seconds['total'] + seconds['write']:.2f} s ({shares})")
    if len(records) > 20:
        click.echo(f"... and {len(records) - 20} more")
    total = sum(record["objects"] for record in records.values())
    how = summary.session
    click.echo(f"{total} objects in {len(records)} file(s) with {how['backend']} {how['precision']} on {how['device']}; see {output}")
