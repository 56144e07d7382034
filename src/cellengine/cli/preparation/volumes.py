"""`cellengine prepare volumes`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from cellengine.cli.preparation import control, make_split, numbers, output_option, restart_option, split_options, tell
from cellengine.errors import UsageError
from cellengine.train.prepare.volumes import VolumeOptions, prepare_volumes

Triple = tuple[float, float, float]


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@output_option
@click.option("--factor", metavar="Z,Y,X", help="How many voxels become one along each axis, e.g. 4,8,8.")
@click.option("--voxel-size", metavar="Z,Y,X", help="Size of the new voxels in um, where files say theirs.")
@click.option("--pad-to", metavar="Z,Y,X|largest", help="Pad smaller volumes to this shape, or to the largest one.")
@click.option("--gap/--no-gap", default=False, show_default=True, help="Part cells that touch.")
@click.option("--boundary", type=click.IntRange(0), default=0, help="Boundary target of this width in px, even.")
@click.option(
    "--blur", type=click.FloatRange(0), default=0.0, help="Blur of the boundary target: sigma in px, the shortest side."
)
@click.option("--axes", help="What the axes are, where files do not say: e.g. ZYX, of MATLAB arrays YXZ.")
@click.option("--image-dataset", default="raw", show_default=True, help="Name of the volume in HDF5 files.")
@click.option("--label-dataset", default="label", show_default=True, help="Name of the labels in HDF5 files.")
@split_options(0.2, 0.0)
@restart_option
def command(
    source: Path,
    output: Path,
    factor: str | None,
    voxel_size: str | None,
    pad_to: str | None,
    gap: bool,
    boundary: int,
    blur: float,
    axes: str | None,
    image_dataset: str,
    label_dataset: str,
    validation: float,
    test: float,
    seed: int,
    restart: bool,
) -> None:
    """Prepare pairs of volumes and label volumes, one HDF5 file each.

    SOURCE is a CSV list (image, label; file.h5:/name for one of several in a file), a folder with images/ and labels/,
    or a folder of HDF5 or MATLAB 7.3 files that hold both. Volumes get the smallest type that loses nothing; they are
    resampled by a spline of order 3, smoothed before they are reduced, and labels by nearest neighbour.
    """
    if boundary % 2:
        raise UsageError(f"--boundary {boundary}: expected an even number, half of it on either side of the border.")
    if blur and not boundary:
        raise UsageError("--blur belongs to --boundary: give its width too.")
    options = VolumeOptions(
        split=make_split(validation, test, seed),
        factor=cast(Triple | None, numbers("--factor", factor, 3)),
        voxel_size_um=cast(Triple | None, numbers("--voxel-size", voxel_size, 3)),
        pad_to=_shape(pad_to),
        gap=gap,
        boundary_px=boundary,
        boundary_blur_px=blur,
        axes=axes,
        image_dataset=image_dataset,
        label_dataset=label_dataset,
    )
    with control(restart, "blocks") as run:
        finished = prepare_volumes(source, output, options, control=run)
    tell(finished, output)


def _shape(text: str | None) -> tuple[int, int, int] | None:
    if text == "largest":
        return (0, 0, 0)
    values = numbers("--pad-to", text, 3)
    if values is None:
        return None
    z, y, x = (int(value) for value in values)
    return (z, y, x)
