"""`cellengine infer`: from pictures to labelled cells and tables."""

from __future__ import annotations

from collections import Counter
from math import inf
from pathlib import Path
from typing import Any, Literal

import click

from cellengine.cli.options import parse_bytes, parse_tile
from cellengine.cli.planned import describe_plan
from cellengine.cli.progress import seconds_by_stage, show_progress
from cellengine.engine.batch import Device, Summary, infer_files, plan_files
from cellengine.engine.crops import CLASSES
from cellengine.engine.options import InferOptions
from cellengine.errors import UsageError

MOST_LINES = 20
"""files reported one by one at the end; run.json has them all"""


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-m",
    "--model",
    default="nuclei",
    show_default=True,
    metavar="NAME|FILE",
    help="A bundled model (`cellengine models` lists them) or a file model.onnx.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Folder for the results; it is made.",
)
@click.option(
    "--then",
    metavar="NAME|FILE",
    help="A classifier for the cells found: its class and probability of each go into the table.",
)
@click.option(
    "--channel", metavar="LIST", help="Channels that show the cells, by number from 0 or by name: 1, or DAPI."
)
@click.option(
    "--axes",
    metavar="LETTERS",
    help="What the dimensions of the file are, in its order, where it does not say: "
    "ZYX a stack, TYX a time series, CYX channels.",
)
@click.option("--timepoint", type=int, metavar="N", help="Label only this time point, counted from 0.")
@click.option(
    "--voxel-size",
    metavar="UM",
    help="Size of the pictures' voxels in um, z,y,x or y,x, where the file does not say or is wrong: 2,0.5,0.5.",
)
@click.option(
    "--resample/--no-resample",
    default=True,
    help="Show the model voxels of the size it was trained with (the default), or the pictures' own as they are.",
)
@click.option("--dataset", metavar="NAME", help="Which image of a file that holds several (HDF5, CZI, LIF, ND2, TIFF).")
@click.option(
    "--nan",
    type=click.Choice(["error", "zero"]),
    default="error",
    show_default=True,
    help="Values that are NaN or infinite: refuse the file, or take them as 0.",
)
@click.option(
    "--missing",
    type=click.Choice(["warn", "error"]),
    default="warn",
    show_default=True,
    help="Pieces of an OME-Zarr that are not there: warn and take them as 0, or refuse the file.",
)
@click.option(
    "--on-error",
    type=click.Choice(["skip", "stop"]),
    default="skip",
    show_default=True,
    help="When one of several files is bad: do the others, or stop.",
)
@click.option(
    "--resume/--restart",
    default=True,
    show_default=True,
    help="Go on with the unfinished run in FOLDER, or forget it and begin anew.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "tif", "ome-zarr"]),
    default="auto",
    show_default=True,
    help="File format of the labels; auto: TIFF, or OME-Zarr when the input is one or the labels pass 2 GiB.",
)
@click.option(
    "--outlines",
    type=click.Choice(["geojson", "imagej"]),
    help="Also write the outlines of the cells: geojson for QuPath, imagej for the ROI manager of ImageJ and Fiji.",
)
@click.option("--device", default="auto", show_default=True, help="Where the network runs: auto, cpu, or cuda:0.")
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="What runs the network: onnxruntime, openvino, or auto, the fastest as timed here once.",
)
@click.option(
    "--precision", metavar="KIND", help="fp32 or bf16; without it the fastest that the model was verified in."
)
@click.option("--tile", metavar="PX", help="Side of the tiles in px: N or Y,X; without it the plan chooses.")
@click.option(
    "--halo",
    default="auto",
    show_default=True,
    help="Margin read around each tile in px: auto (measured when the model was exported), "
    "exact (all that the network can see), or N.",
)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Tiles per call of the network.")
@click.option(
    "--max-ram",
    metavar="SIZE",
    help="Memory that the run may plan with, e.g. 2GB; without it 80 % of what the system allows.",
)
@click.option("--max-vram", metavar="SIZE", help="Memory of a GPU that the network may take; without it 80 % of it.")
@click.option(
    "--dask",
    metavar="ADDRESS|local:N",
    help="Have the work done by the workers of a dask scheduler, or by N processes of one thread on this machine.",
)
@click.option(
    "--plan",
    is_flag=True,
    help="Only say how INPUT would be labelled, and what memory, disk and time that takes.",
)
def command(
    inputs: tuple[str, ...],
    model: str,
    output: Path,
    then: str | None,
    channel: str | None,
    axes: str | None,
    timepoint: int | None,
    voxel_size: str | None,
    resample: bool,
    dataset: str | None,
    nan: Literal["error", "zero"],
    missing: Literal["warn", "error"],
    on_error: Literal["skip", "stop"],
    resume: bool,
    form: Literal["auto", "tif", "ome-zarr"],
    outlines: Literal["geojson", "imagej"] | None,
    device: str,
    backend: str,
    precision: str | None,
    tile: str | None,
    halo: str,
    batch: int,
    max_ram: str | None,
    max_vram: str | None,
    dask: str | None,
    plan: bool,
) -> None:
    """Label the cells in INPUT (files, folders, patterns or OME-Zarr) and measure them.

    FOLDER gets, per input: NAME.labels.tif (each cell its number), NAME.objects.csv (one row a cell) and
    NAME.overlay.png to look at, and one run.json. A run that was stopped goes on with the same command.

    A model of classes of pixels writes class numbers into NAME.labels.tif and areas into NAME.classes.csv. A
    classifier takes every input as a crop of one cell, and writes classes.csv alone.
    """
    options = InferOptions(
        axes=axes,
        dataset=dataset,
        channel=tuple(part.strip() for part in channel.split(",")) if channel else (),
        timepoint=timepoint,
        voxel_size_um=_lengths("--voxel-size", voxel_size) if voxel_size else None,
        resample=resample,
        tile=parse_tile("--tile", tile) if tile else None,
        halo=_halo(halo),
        nan=nan,
        missing=missing,
        batch=batch,
        max_ram=parse_bytes("--max-ram", max_ram) if max_ram else None,
        max_vram=parse_bytes("--max-vram", max_vram) if max_vram else None,
        format=form,
        outlines=outlines,
        on_error=on_error,
    )
    where = Device(device, backend, precision)
    if plan:
        for line in describe_plan(plan_files(inputs, model, output, options, where)):
            click.echo(line)
        return
    with show_progress() as progress:
        how: dict[str, Any] = {"then": then, "restart": not resume, "dask": dask}
        summary = infer_files(inputs, model, output, options, where, **how, progress=progress)
    report(summary, output)


def report(summary: Summary, output: Path) -> None:
    """What a user wants to know at the end: what was found, how long what took, on what, and where to look."""
    records = summary.records
    if summary.already_complete:
        click.echo(f"{output} already holds this run, complete: nothing to do (--restart does it again).")
        return
    how = summary.session
    with_what = f"with {how['backend']} {how['precision']} on {how['device']}"
    files = "1 file" if len(records) == 1 else f"{len(records)} files"
    if summary.task == "classification":
        counts = Counter(record["class"] for record in records.values())
        named = ", ".join(f"{name} {count} ({count / len(records):.1%})" for name, count in counts.most_common())
        click.echo(f"{files} {with_what}: {named}")
        click.echo(f"all results are in {output / CLASSES}")
        return
    for number, (name, record) in enumerate(records.items(), 1):
        for warning in record["warnings"]:
            click.echo(f"warning: {warning}", err=True)
        if number <= MOST_LINES:
            click.echo(
                f"file {number}/{len(records)} {name}: {_found(record, summary.task)}, {seconds_by_stage(record)}"
            )
    if len(records) > MOST_LINES:
        click.echo(f"... and {len(records) - MOST_LINES} more, see {output / 'run.json'}")
    total = f"{_objects(sum(record['objects'] for record in records.values()))} in {files}"
    if summary.task == "semantic":
        total = f"classes of {files}"
    click.echo(f"{total} {with_what}")
    click.echo(f"look at {_overlay(output, records)}; all results are in {output}")


def _found(record: dict[str, Any], task: str) -> str:
    """Objects, and the shares of the classes where a model tells them apart: of the objects, or of the picture."""
    named = ", ".join(f"{name} {entry['share']:.1%}" for name, entry in record.get("classes", {}).items())
    if task == "semantic":
        return named
    return _objects(record["objects"]) + (f" ({named})" if named else "")


def _objects(count: int) -> str:
    return "1 object" if count == 1 else f"{count} objects"


def _overlay(output: Path, records: dict[str, dict[str, Any]]) -> Path:
    """The overlay of the first input."""
    names: list[str] = next(iter(records.values()))["outputs"]
    return output / next(name for name in names if name.endswith(".overlay.png"))


def _lengths(option: str, text: str) -> tuple[float, ...]:
    try:
        lengths = tuple(float(part) for part in text.split(","))
    except ValueError:
        lengths = ()
    if not 2 <= len(lengths) <= 3 or not all(0 < length < inf for length in lengths):
        raise UsageError(f"{option} {text!r}: expected lengths in um, z,y,x or y,x, e.g. 2,0.5,0.5.")
    return lengths


def _halo(text: str) -> int | Literal["auto", "exact"]:
    if text == "auto":
        return "auto"
    if text == "exact":
        return "exact"
    if text.isdigit():
        return int(text)
    raise UsageError(f"--halo {text!r}: expected auto, exact, or a whole number of px.")
