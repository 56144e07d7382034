"""`cellengine watch`: pictures are labelled as the microscope writes them."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import click

from cellengine.engine.batch import Device
from cellengine.engine.options import InferOptions
from cellengine.errors import UsageError
from cellengine.watch.server import Address
from cellengine.watch.service import watch_folder
from cellengine.watch.worker import WatchOptions


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-m", "--model", default="nuclei", show_default=True, metavar="NAME|FILE", help="As for `infer`.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT", help="Folder for the results."
)
@click.option("--then", metavar="NAME|FILE", help="A classifier for the cells that the model finds.")
@click.option("--once", is_flag=True, help="Label what is there, then end.")
@click.option(
    "--settle",
    default="2s",
    show_default=True,
    metavar="TIME",
    help="A picture is complete when it has not changed for so long: 500ms, 2s, 1min.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Of the live page; 0: a free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Where the live page is offered. Any other address than the loopback makes visitors show a token.",
)
@click.option("--no-page", is_flag=True, help="No live page.")
@click.option("--channel", metavar="LIST", help="Channels that show the cells, by number from 0 or by name.")
@click.option("--axes", metavar="LETTERS", help="What the dimensions are where the files do not say: ZYX, TYX, CYX.")
@click.option("--device", default="auto", show_default=True, help="Where the network runs: auto, cpu, or cuda:0.")
@click.option("--backend", default="auto", show_default=True, help="onnxruntime, openvino, or auto.")
@click.option("--precision", metavar="KIND", help="fp32 or bf16; without it the fastest verified one.")
def command(
    folder: Path,
    model: str,
    output: Path,
    then: str | None,
    once: bool,
    settle: str,
    port: int,
    host: str,
    no_page: bool,
    channel: str | None,
    axes: str | None,
    device: str,
    backend: str,
    precision: str | None,
) -> None:
    """Label every picture in FOLDER, those that are there and those that come, each exactly once.

    Stop it with Ctrl-C or a power cut; the same command goes on. OUT gets for each picture what `infer` writes, and
    pictures.csv for all; a picture that cannot be used three times is set aside in failures.csv until it changes.
    """
    options = InferOptions(axes=axes, channel=tuple(part.strip() for part in channel.split(",")) if channel else ())
    address = None if no_page else Address(host, port)
    how = WatchOptions(_seconds(settle), once, then, address)
    found = watch_folder(folder, model, output, options, Device(device, backend, precision), how, _say)
    click.echo(f"{found['done']} pictures are labelled; all results are in {output}")


def _say(line: str) -> None:
    click.echo(f"{datetime.now().astimezone().isoformat(sep=' ', timespec='seconds')} {line}")


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min)", text.strip().lower())
    if found is None:
        raise UsageError(f"--settle {text!r}: expected a time with its unit, e.g. 2s, 500ms or 1min.")
    return float(found[1]) * {"ms": 0.001, "s": 1.0, "min": 60.0}[found[2]]
