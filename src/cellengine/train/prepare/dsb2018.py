"""The 2018 Data Science Bowl as Kaggle gave it out: `<id>/images/<id>.png` and one mask a nucleus in `<id>/masks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellengine.errors import InputError, UsageError
from cellengine.train.prepare.frame import KEPT, Control, Defect, Finished, Found, Job, Outcome, run_jobs
from cellengine.train.prepare.looks import Look
from cellengine.train.prepare.masks import Resolved, resolve_masks
from cellengine.train.prepare.pictures import (
    SplitOptions,
    picture_suffix,
    read_picture,
    split_by_looks,
    write_labels,
    write_picture,
    write_picture_sheet,
)
from cellengine.train.prepare.report import (
    OVERVIEW,
    DataReport,
    count_by,
    summary_lines,
    write_list,
    write_report,
)

Array = NDArray[Any]

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg")


@dataclass(frozen=True, slots=True)
class Dsb2018Options:
    """What is decided about the pictures."""

    split: SplitOptions = field(default_factory=SplitOptions)
    tiles: bool = True
    """look for neighbouring tiles of one field of view and keep them in one split"""


def prepare_dsb2018(
    source: Path,
    output: Path,
    options: Dsb2018Options,
    *,
    control: Control | None = None,
) -> Finished:
    """Write images/, labels/ and the list of them to `output`; see `run_jobs` for how it resumes.

    Raises UsageError when `source` is no folder, InputError when it holds no usable picture.
    """
    found = find_pictures(source, output)
    identity = {"command": "prepare dsb2018", "source": str(source.resolve()), **asdict(options)}
    return run_jobs(output, identity, found, partial(_summarise, output, options, identity), control=control)


def find_pictures(source: Path, output: Path) -> Found:
    """The folders of `source` that hold one picture and its masks, and what is wrong with the others."""
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder; expected folders <id> with images/ and masks/ in it.")
    jobs, defects = [], []
    for folder in sorted(entry for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        images, masks = _pictures_in(folder / "images"), _pictures_in(folder / "masks")
        if len(images) != 1:
            defects.append(Defect(folder.name, f"{len(images)} pictures in images/; expected one"))
        elif not masks:
            defects.append(Defect(folder.name, "the picture has no masks"))
        else:
            work = partial(prepare_picture, folder.name, images[0], masks, output)
            jobs.append(Job(folder.name, (images[0], folder / "masks"), work))
    if not jobs and not defects:
        raise InputError(f"{source}: no folders in it; expected <id>/images/<id>.png and <id>/masks/*.png.")
    return Found(tuple(jobs), tuple(defects))


def prepare_picture(name: str, image_path: Path, mask_paths: Sequence[Path], output: Path) -> Outcome:
    """Write one picture and its label image. Raises InputError when they do not fit each other."""
    image = read_picture(image_path)
    if len(image) not in (1, 3):
        raise InputError(f"the picture has {len(image)} channels; expected grey or RGB")
    shape = (image.shape[1], image.shape[2])
    masks = [read_picture(path).max(axis=0) for path in mask_paths]
    unfit = [p.name for p, mask in zip(mask_paths, masks, strict=True) if mask.shape != shape]
    if unfit:
        sizes = next(mask.shape for mask in masks if mask.shape != shape)
        raise InputError(f"{len(unfit)} masks of another size: {unfit[0]} is {sizes}, the picture is {shape}")
    resolved = resolve_masks(masks, shape)
    if not resolved.labels.any():
        raise InputError(f"its {len(masks)} masks are empty")
    files = (f"images/{name}{picture_suffix(image)}", f"labels/{name}.tif")
    write_picture(output / files[0], image)
    write_labels(output / files[1], resolved.labels)
    sums = image.reshape(len(image), -1).sum(axis=1, dtype=np.float64)
    facts = {
        "height": shape[0],
        "width": shape[1],
        "channels": len(image),
        "kind": kind_of(image),
        "cells": int(resolved.labels.max()),
        "overlap_px": resolved.overlap_px,
        "sums": sums.tolist() * (1 if len(sums) == 3 else 3),
        "look": Look.of(image).to_text(),
    }
    defects = list(_mask_defects(name, [path.name for path in mask_paths], resolved))
    if image.min() == image.max():
        defects.append(Defect(name, f"the picture is constant ({image.min()} everywhere)", KEPT))
    return Outcome(files, facts, tuple(defects))


def kind_of(image: Array) -> str:
    """How a picture (C, Y, X) was taken, as far as its colours tell: stained, brightfield or fluorescence."""
    if len(image) > 1:
        return "stained"
    low, middle, high = np.percentile(image, (1, 50, 99))
    return "brightfield" if middle > (low + high) / 2 else "fluorescence"


def _mask_defects(name: str, masks: Sequence[str], resolved: Resolved) -> list[Defect]:
    defects = []
    if resolved.overlap_px:
        a, b = resolved.overlapping[0]
        defects.append(
            Defect(
                name,
                f"{len(resolved.overlapping)} pairs of masks overlap in {resolved.overlap_px} px, "
                f"for instance {masks[a]} and {masks[b]}",
                "the smaller nucleus keeps the pixels",
            )
        )
    for which, problem, consequence in (
        (resolved.empty, "is empty", "mask left out"),
        (resolved.hidden, "lies under smaller ones altogether", "mask left out"),
        (resolved.in_pieces, "is in several pieces", KEPT),
    ):
        defects += [Defect(name, f"the mask {masks[i]} {problem}", consequence) for i in which]
    return defects


def _pictures_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _summarise(
    output: Path,
    options: Dsb2018Options,
    identity: Mapping[str, Any],
    outcomes: Mapping[str, Outcome],
    defects: Sequence[Defect],
) -> list[str]:
    names = list(outcomes)
    looks = [Look.from_text(outcome.facts["look"]) for outcome in outcomes.values()]
    kinds = [outcome.facts["kind"] for outcome in outcomes.values()]
    shares = split_by_looks(names, kinds, looks, options.split, tiles=options.tiles)
    rows = [
        {
            "image": outcome.files[0],
            "label": outcome.files[1],
            "split": split,
            "group": group,
            **{key: outcome.facts[key] for key in ("kind", "height", "width", "channels", "cells")},
        }
        for outcome, group, split in zip(outcomes.values(), shares.groups, shares.splits, strict=True)
    ]
    write_list(output, rows)
    write_picture_sheet(output / OVERVIEW, output, rows)
    everything = [*defects, *shares.copies]
    numbers = {
        "pictures": len(rows),
        "nuclei": sum(row["cells"] for row in rows),
        "groups_of_pictures": len(set(shares.groups)),
        "pairs_of_neighbouring_tiles": shares.neighbours,
        "overlapping_px": sum(outcome.facts["overlap_px"] for outcome in outcomes.values()),
        "mean_pixel_of_train": _mean_pixel([o for o, split in zip(outcomes.values(), shares.splits, strict=True)
                                            if split == "train"]),
    }  # fmt: skip
    tables = {"By split and kind": count_by(rows, "split", "kind")}
    write_report(output, DataReport("2018 Data Science Bowl", identity, numbers, everything, tables))
    return summary_lines(output, rows, everything)


def _mean_pixel(outcomes: Sequence[Outcome]) -> list[float]:
    """Mean red, green and blue over all pixels; a grey picture counts as one of three equal channels."""
    pixels = sum(outcome.facts["height"] * outcome.facts["width"] for outcome in outcomes)
    sums = np.sum([outcome.facts["sums"] for outcome in outcomes], axis=0)
    return [round(float(value), 3) for value in sums / pixels]
