"""Pairs of volumes and label volumes, brought to one size, type and file format that patches are read from fast.

Report B did this by hand: `f8` to small integers, shrinking by a spline, padding, a gap between cells that touch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellengine.errors import CellengineError, InputError, UsageError
from cellengine.geometry import Region
from cellengine.io import ImageSource, open_source
from cellengine.io.lists import Reference, read_pairs
from cellengine.io.splits import draw_split
from cellengine.train.prepare.convert import Conversion, Facts, Pair, convert, count_blocks
from cellengine.train.prepare.frame import (
    KEPT,
    Control,
    Defect,
    Finished,
    Found,
    Job,
    Outcome,
    digest,
    run_jobs,
    unique_names,
)
from cellengine.train.prepare.pictures import SplitOptions
from cellengine.train.prepare.report import OVERVIEW, DataReport, count_by, summary_lines, write_list, write_report
from cellengine.train.prepare.sheet import draw_labelled, write_sheet

Array = NDArray[Any]

HDF5_SUFFIXES = (".h5", ".hdf5", ".mat")
RAW, LABEL, BOUNDARY = "raw", "label", "boundary"


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """What is done to the volumes."""

    split: SplitOptions = field(default_factory=SplitOptions)
    factor: tuple[float, float, float] | None = None
    """how many old voxels make a new one along z, y, x"""
    voxel_size_um: tuple[float, float, float] | None = None
    """or the size of the new ones"""
    pad_to: tuple[int, int, int] | None = None
    """shape that smaller volumes are padded to, z, y, x; zeros are those of the largest volume"""
    gap: bool = False
    """part cells that touch"""
    boundary_px: int = 0
    """width of the boundary target, an even number; 0 for none"""
    boundary_blur_px: float = 0.0
    """standard deviation of the Gaussian that it is blurred by, in px of a new voxel's shortest side"""
    axes: str | None = None
    """what the axes are, where files do not say"""
    image_dataset: str = RAW
    label_dataset: str = LABEL


@dataclass(frozen=True, slots=True)
class Seen:
    """A pair whose headers were read."""

    name: str
    pair: Pair
    shape: tuple[int, ...]
    new_shape: tuple[int, ...]
    voxel_size_um: tuple[float, ...] | None
    """of the new voxels"""
    split: str | None
    group: str


def prepare_volumes(
    source: Path,
    output: Path,
    options: VolumeOptions,
    *,
    control: Control | None = None,
) -> Finished:
    """Write volumes/<name>.h5 (raw, label, boundary) and the list of them to `output`; see `run_jobs` for resuming.

    `source` is a CSV list (image, label), a folder with images/ and labels/, or a folder of HDF5 or MATLAB files that
    hold both. Raises UsageError for options that do not fit (a volume larger than the shape that all shall have, for
    instance), InputError when no pair is usable.
    """
    seen, defects = look_at(source, options)
    control = control or Control()
    jobs = []
    for one in seen:
        how = _conversion(one, _padded(one, seen, options), options)
        work = partial(prepare_volume, one, how, output, control.progress.advance)
        given = digest(one.pair.image.dataset, one.pair.label.dataset, one.pair.axes, how)
        jobs.append(Job(one.name, one.pair.files, work, count_blocks(one.shape, how) + 1, given))
    identity = {"command": "prepare volumes", "source": str(source.resolve()), **asdict(options)}
    found = Found(tuple(jobs), tuple(defects), (source,) if source.suffix.lower() == ".csv" else ())
    done = partial(_summarise, output, options, identity, {one.name: one for one in seen})
    return run_jobs(output, identity, found, done, threads=1, control=control)


def look_at(source: Path, options: VolumeOptions) -> tuple[list[Seen], list[Defect]]:
    """Every pair with the shape that it will get, from the headers; and what cannot be used."""
    if options.factor and options.voxel_size_um:
        raise UsageError("--factor and --voxel-size both say how large the new voxels are: give one of them.")
    seen: list[Seen] = []
    defects: list[Defect] = []
    listed = _listed(source, options)
    names = unique_names(_name(image, label) for image, label, _ in listed)
    for name, (image, label, values) in zip(names, listed, strict=True):
        missing = "volume" if image is None else "label volume" if label is None else None
        if missing or image is None or label is None:
            defects.append(Defect(name, f"the {'labels have' if image is None else 'volume has'} no {missing}"))
            continue
        pair = Pair(image, label, values.get("axes") or options.axes)
        try:
            seen.append(_look(name, pair, values, options))
        except CellengineError as error:
            defects.append(Defect(name, str(error)))
    if not seen and not defects:
        raise InputError(f"{source}: no volumes in it; expected a CSV list, images/ and labels/, or HDF5 files.")
    return seen, defects


def prepare_volume(seen: Seen, how: Conversion, output: Path, tick: Callable[[int], None]) -> Outcome:
    """Write one volume; see `convert`."""
    file = f"volumes/{seen.name}.h5"
    facts = convert(seen.pair, output / file, how, tick)
    return Outcome((file,), asdict(facts), tuple(_content_defects(seen.name, facts)))


def _conversion(seen: Seen, padded: tuple[int, ...], options: VolumeOptions) -> Conversion:
    return Conversion(
        new_shape=seen.new_shape,
        padded_shape=padded,
        voxel_size_um=seen.voxel_size_um,
        gap=options.gap,
        boundary_px=options.boundary_px,
        boundary_blur_px=options.boundary_blur_px,
    )


def _content_defects(name: str, facts: Facts) -> list[Defect]:
    defects = []
    for lost, what in ((facts.lost_by_resampling, "resampling"), (facts.lost_by_gap, "the gap between cells")):
        if lost:
            numbers = ", ".join(map(str, lost[:10])) + (", ..." if len(lost) > 10 else "")
            defects.append(
                Defect(name, f"{len(lost)} of {facts.cells} cells vanish with {what}: {numbers}", "cells left out")
            )
    if facts.missing_numbers:
        defects.append(
            Defect(
                name, f"the labels run to {facts.highest_label} but {facts.missing_numbers} numbers are missing", KEPT
            )
        )
    if facts.pieces is not None and facts.pieces != facts.cells_after:
        why = "some still touch" if facts.pieces < facts.cells_after else "some are in parts"
        defects.append(Defect(name, f"{facts.cells_after} cells are {facts.pieces} connected pieces: {why}", KEPT))
    if not facts.cells:
        defects.append(Defect(name, "there is no cell in the labels", KEPT))
    return defects


def _listed(source: Path, options: VolumeOptions) -> list[tuple[Reference | None, Reference | None, Mapping[str, str]]]:
    if source.is_file() and source.suffix.lower() == ".csv":
        return [(pair.image, pair.label, pair.values) for pair in read_pairs(source)]
    if source.is_file() and source.suffix.lower() in HDF5_SUFFIXES:
        files = [source]
    elif source.is_dir() and (source / "images").is_dir():
        images, labels = (
            {path.name.partition(".")[0]: path for path in sorted((source / sub).glob("[!.]*"))}
            for sub in ("images", "labels")
        )
        stems = sorted(images.keys() | labels.keys())
        return [(_or_none(images.get(stem)), _or_none(labels.get(stem)), {}) for stem in stems]
    elif source.is_dir():
        files = [path for path in sorted(source.iterdir()) if path.suffix.lower() in HDF5_SUFFIXES]
    else:
        raise UsageError(f"{source} is neither a CSV list, an HDF5 or MATLAB file, nor a folder.")
    return [(Reference(path, options.image_dataset), Reference(path, options.label_dataset), {}) for path in files]


def _or_none(path: Path | None) -> Reference | None:
    return Reference(path) if path else None


def _look(name: str, pair: Pair, values: Mapping[str, str], options: VolumeOptions) -> Seen:
    with pair.open_image() as image, pair.open_labels() as labels:
        if image.axes != "ZYX":
            raise InputError(f"a volume {image.shape} ({image.axes}); expected the axes ZYX")
        if labels.shape != image.shape:
            raise InputError(f"the labels are {labels.shape}, the volume is {image.shape}")
        factor = _factor(image, options)
        new_shape = tuple(max(1, round(n / f)) for n, f in zip(image.shape, factor, strict=True))
        size = image.voxel_size_um or labels.voxel_size_um
        new_size = tuple(s * n / m for s, n, m in zip(size, image.shape, new_shape, strict=True)) if size else None
    return Seen(name, pair, image.shape, new_shape, new_size, values.get("split") or None, values.get("group") or name)


def _factor(image: ImageSource, options: VolumeOptions) -> tuple[float, ...]:
    if options.factor:
        return options.factor
    if options.voxel_size_um is None:
        return (1.0, 1.0, 1.0)
    if image.voxel_size_um is None:
        raise InputError("the file says no voxel size; give --factor instead of --voxel-size")
    return tuple(new / old for new, old in zip(options.voxel_size_um, image.voxel_size_um, strict=True))


def _padded(one: Seen, seen: Sequence[Seen], options: VolumeOptions) -> tuple[int, ...]:
    if options.pad_to is None:
        return one.new_shape
    largest = np.max([other.new_shape for other in seen], axis=0)
    padded = tuple(p or int(m) for p, m in zip(options.pad_to, largest, strict=True))
    if any(n > p for n, p in zip(one.new_shape, padded, strict=True)):
        raise UsageError(
            f"--pad-to {_sides(padded)}: {one.name} is larger, {_sides(one.new_shape)}; "
            f"give at least {_sides(largest)}, or --pad-to largest."
        )
    return padded


def _sides(shape: Iterable[int]) -> str:
    return ",".join(map(str, shape))


def _name(image: Reference | None, label: Reference | None) -> str:
    """The file's name without suffix."""
    reference = image or label
    return reference.path.name.partition(".")[0].removesuffix("_raw") if reference else "row"


def _summarise(
    output: Path,
    options: VolumeOptions,
    identity: Mapping[str, Any],
    seen: Mapping[str, Seen],
    outcomes: Mapping[str, Outcome],
    defects: Sequence[Defect],
) -> list[str]:
    names = list(outcomes)
    given = [seen[name].split for name in names]
    if all(given):
        splits = [split or "" for split in given]
    elif len(names) == 1:
        splits = ["train"]
    else:
        splits = draw_split([seen[name].group for name in names], options.split.shares, options.split.seed)
    rows = []
    for name, split in zip(names, splits, strict=True):
        outcome = outcomes[name]
        file, facts = outcome.files[0], outcome.facts
        row = {"image": f"{file}:/{RAW}", "label": f"{file}:/{LABEL}"}
        if options.boundary_px:
            row["boundary"] = f"{file}:/{BOUNDARY}"
        row |= {"split": split, "group": seen[name].group, "kind": "volume"}
        row |= dict(zip("zyx", facts["shape"], strict=True))
        rows.append({**row, "cells": facts["cells_after"]})
    write_list(output, rows)
    write_sheet(output / OVERVIEW, rows, partial(_draw, output))
    table = [
        {
            "volume": name,
            "stored_as": outcomes[name].facts["stored_dtype"],
            "now": outcomes[name].facts["dtype"],
            **{
                key: outcomes[name].facts[key]
                for key in ("shape", "cells", "cells_after", "pieces", "lowest", "highest")
            },
        }
        for name in names
    ]
    notes = ["Images by a spline of order 3, smoothed before they are reduced; labels by nearest neighbour."]
    notes += ["No more than one volume: there is nothing to validate on."] if len(names) == 1 else []
    numbers = {
        "volumes": len(rows),
        "cells_before": sum(row["cells"] for row in table),
        "cells_after": sum(row["cells_after"] for row in table),
    }
    tables = {"Volumes": table, "By split": count_by(rows, "split")}
    write_report(output, DataReport("Volumes", identity, numbers, defects, tables, notes))
    return summary_lines(output, rows, defects)


def _draw(output: Path, row: Mapping[str, Any]) -> tuple[Array, str]:
    """The plane of a prepared volume with most labelled voxels."""
    file, _, _ = str(row["image"]).partition(":/")
    with open_source(output / file, dataset=LABEL) as labels, open_source(output / file, dataset=RAW) as image:
        plane = _fullest(labels)
        planes = [source.read(plane)[0] for source in (image, labels)]
    return draw_labelled(planes[0][None], planes[1], is_rgb=False), str(row["split"])


def _fullest(labels: ImageSource) -> Region:
    """The plane with most labelled voxels of a dozen that are looked at."""
    depth, height, width = labels.shape
    planes = [Region((z, 0, 0), (z + 1, height, width)) for z in np.unique(np.linspace(0, depth - 1, 12).astype(int))]
    return max(planes, key=lambda plane: int((labels.read(plane) != 0).sum()))
