"""`cellengine demo`: the main job on a real picture and on a synthetic stack, without any data of yours."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2hed

from cellengine.cli.infer import report
from cellengine.cli.progress import show_progress
from cellengine.engine.batch import Device, infer_files
from cellengine.engine.options import InferOptions
from cellengine.io import write_png


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    metavar="FOLDER",
    help="Folder for inputs and results; it is made.",
)
def command(output: Path) -> None:
    """Label nuclei in stained tissue and in a synthetic 16-bit OME-TIFF stack.

    The tissue is scikit-image's ihc.png: nuclei in blue haematoxylin under a brown immunostain. Its blue is separated
    from the brown first, as is usual for such pictures.
    """
    inputs, results = output / "inputs", output / "results"
    inputs.mkdir(parents=True, exist_ok=True)
    tissue, stack = inputs / "tissue.png", inputs / "stack.ome.tif"
    stained = inputs / "as_stained" / "tissue.png"
    stained.parent.mkdir(exist_ok=True)
    stained.write_bytes((resources.files("skimage") / "data" / "ihc.png").read_bytes())
    write_png(tissue, separate_haematoxylin(np.asarray(Image.open(stained).convert("RGB"))))
    write_stack(stack)
    click.echo(f"$ cellengine infer {tissue} {stack} -m nuclei -o {results}")
    with show_progress() as progress:
        files = [str(tissue), str(stack)]
        summary = infer_files(files, "nuclei", results, InferOptions(), Device(), restart=True, progress=progress)
    report(summary, results)
    click.echo(f"labels for Fiji or napari: {results / 'stack.labels.tif'}; a table: {results / 'stack.objects.csv'}")


def separate_haematoxylin(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The density of haematoxylin in a colour picture (Y, X, 3), grey in the same shape; bright is dense.

    Colour deconvolution of Ruifrok and Johnston (2001), as scikit-image has it.
    """
    density = rgb2hed(picture)[..., 0]
    low, high = np.percentile(density, (1, 99.8))
    grey = (255 * ((density - low) / (high - low)).clip(0, 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def write_stack(path: Path, planes: int = 3, side: int = 512, nuclei: int = 120) -> None:
    """A synthetic 16-bit OME-TIFF, axes ZYX: round nuclei of 7 to 16 px radius on a noisy background.

    Made by a seeded generator, in a few planes that differ, with a voxel size of 2 x 0.5 x 0.5 um.
    """
    random = np.random.default_rng(7)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    stack = np.empty((planes, side, side), np.uint16)
    for plane in stack:
        signal = np.full((side, side), 180.0, np.float32)
        for _ in range(nuclei):
            cy, cx, radius = random.uniform((0, 0, 7), (side, side, 16))
            top, left = max(0, int(cy - 20)), max(0, int(cx - 20))
            box = (slice(top, int(cy + 21)), slice(left, int(cx + 21)))
            distance = np.hypot(y[box] - cy, x[box] - cx)
            nucleus = random.uniform(600, 2400) / (1 + np.exp((distance - radius) / 1.2))
            signal[box] = np.maximum(signal[box], 180 + nucleus)
        plane[:] = random.poisson(signal).clip(0, 65535)
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "XYZ"}
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "ZYX", **size, **units}, compression="zlib")
