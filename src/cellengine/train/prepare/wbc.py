"""White blood cells with masks of grey values: pictures (BMP) and masks (PNG) of one name, three classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellengine.errors import InputError, UsageError
from cellengine.io.lists import IMAGE_COLUMNS, read_pairs
from cellengine.train.prepare.frame import KEPT, Control, Defect, Finished, Found, Job, Outcome, run_jobs, unique_names
from cellengine.train.prepare.looks import Look
from cellengine.train.prepare.pictures import (
    SplitOptions,
    picture_suffix,
    read_picture,
    split_by_looks,
    write_labels,
    write_picture,
    write_picture_sheet,
)
from cellengine.train.prepare.report import OVERVIEW, DataReport, count_by, summary_lines, write_list, write_report

Array = NDArray[Any]

VALUES = (0, 128, 255)
"""grey values of the masks, in order of CLASSES"""
CLASSES = ("background", "cytoplasm", "nucleus")
IMAGE_SUFFIXES, MASK_SUFFIX = (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff"), ".png"


@dataclass(frozen=True, slots=True)
class WbcOptions:
    """What is decided about the pictures."""

    split: SplitOptions = field(default_factory=SplitOptions)
    size_px: int | None = None
    """make every picture a square of this side, nearest neighbour for both; None leaves them as they are"""


def prepare_wbc(
    source: Path,
    output: Path,
    options: WbcOptions,
    *,
    control: Control | None = None,
) -> Finished:
    """Write images/, labels/ (class ids 0, 1, 2) and the list of them to `output`; see `run_jobs` for how it resumes.

    Raises UsageError when `source` does not exist, InputError when it holds no usable picture.
    """
    found = find_pictures(source, output, options)
    identity = {"command": "prepare wbc", "source": str(source.resolve()), **asdict(options)}
    return run_jobs(output, identity, found, partial(_summarise, output, options, identity), control=control)


def find_pictures(source: Path, output: Path, options: WbcOptions) -> Found:
    """Pictures with their masks: of a CSV list (image, mask), or of a folder and its folders.

    There `a.bmp` belongs to `a.png`, and `a_image.png` to `a_mask.png`.
    """
    if source.is_file():
        pairs = read_pairs(source)
        if not any(pair.image for pair in pairs):
            raise InputError(f"{source}: no column names the pictures; expected {' or '.join(IMAGE_COLUMNS)}.")
        images = {pair.image.path: pair.label.path if pair.label else None for pair in pairs if pair.image}
        root, lonely = source.parent, list[Path]()
    elif source.is_dir():
        root, (images, lonely) = source, _pairs_in(source)
    else:
        raise UsageError(f"{source} does not exist; expected a folder with pictures and masks, or a CSV list.")
    jobs, defects = [], [Defect(_name(mask, root), "the mask has no picture") for mask in lonely]
    names = unique_names(_name(image, root) for image in images)
    for name, (image, mask) in zip(names, images.items(), strict=True):
        if mask is None or not mask.exists():
            defects.append(Defect(name, "the picture has no mask"))
        elif not image.exists():
            defects.append(Defect(name, "the picture does not exist"))
        else:
            jobs.append(Job(name, (image, mask), partial(prepare_picture, name, image, mask, output, options)))
    if not jobs and not defects:
        raise InputError(f"{source}: no pictures in it; expected pairs such as 001.bmp and 001.png.")
    return Found(tuple(jobs), tuple(defects), (source,) if source.is_file() else ())


def prepare_picture(name: str, image_path: Path, mask_path: Path, output: Path, options: WbcOptions) -> Outcome:
    """Write one picture and its map of classes. Raises InputError when they do not fit each other."""
    image, drawn = read_picture(image_path), read_picture(mask_path)
    if len(drawn) != 1:
        raise InputError(f"the mask {mask_path.name} is coloured; expected grey values {VALUES}")
    if image.shape[1:] != drawn.shape[1:]:
        raise InputError(f"the mask {mask_path.name} is {drawn.shape[1:]}, the picture is {image.shape[1:]}")
    labels, stray = class_map(drawn[0])
    if options.size_px:
        image, labels = (resize_nearest(a, options.size_px) for a in (image, labels))
    files = (f"images/{name}{picture_suffix(image)}", f"labels/{name}.tif")
    write_picture(output / files[0], image)
    write_labels(output / files[1], labels)
    counts = np.bincount(labels.ravel(), minlength=len(CLASSES)).tolist()
    defects = []
    if stray:
        values = ", ".join(f"{value} ({n} px)" for value, n in list(stray.items())[:5])
        more = f" and {len(stray) - 5} more" if len(stray) > 5 else ""
        defects.append(
            Defect(name, f"values other than {VALUES} in the mask: {values}{more}", "taken as the nearest of them")
        )
    absent = [CLASSES[i] for i, n in enumerate(counts) if not n]
    if absent:
        defects.append(Defect(name, f"no {' and no '.join(absent)} in the mask", KEPT))
    facts = {
        "height": labels.shape[0],
        "width": labels.shape[1],
        "kind": image_path.parent.name,
        "counts": counts,
        "stray_px": sum(stray.values()),
        "look": Look.of(image).to_text(),
    }
    return Outcome(files, facts, tuple(defects))


def class_map(drawn: Array) -> tuple[Array, dict[int, int]]:
    """Class ids of a mask drawn in grey values, uint8, and how many pixels have which other value.

    Such a value goes to the nearest of VALUES, of two equally near ones to the lower.
    """
    values = np.asarray(VALUES)
    nearest = np.abs(drawn[..., None].astype(np.int64) - values).argmin(axis=-1).astype(np.uint8)
    other, counts = np.unique(drawn[~np.isin(drawn, values)], return_counts=True)
    return nearest, dict(zip(other.tolist(), counts.tolist(), strict=True))


def resize_nearest(array: Array, size_px: int) -> Array:
    """The last two axes brought to a square; each new pixel takes the one in which its centre lies."""
    rows, columns = ((2 * np.arange(size_px) + 1) * n // (2 * size_px) for n in array.shape[-2:])
    resized: Array = array[..., rows[:, None], columns]
    return resized


def _pairs_in(folder: Path) -> tuple[dict[Path, Path | None], list[Path]]:
    """Pictures with their masks, and masks without a picture."""
    files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    known = set(files)
    images: dict[Path, Path | None] = {}
    for path in files:
        stem = path.stem.removesuffix("_image")
        mask = path.with_name(f"{stem}_mask{MASK_SUFFIX}") if stem != path.stem else path.with_suffix(MASK_SUFFIX)
        is_mask = path.suffix.lower() == MASK_SUFFIX and stem == path.stem
        if not is_mask:
            images[path] = mask if mask in known else None
    taken = {mask for mask in images.values() if mask}
    return images, [path for path in files if path not in images and path not in taken]


def _name(path: Path, root: Path) -> str:
    """A name for the output: the path below `root` without suffix, folders joined by an underscore."""
    inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return "_".join([*inside.parent.parts, inside.stem.removesuffix("_image")]).replace(" ", "-")


def _summarise(
    output: Path,
    options: WbcOptions,
    identity: Mapping[str, Any],
    outcomes: Mapping[str, Outcome],
    defects: Sequence[Defect],
) -> list[str]:
    looks = [Look.from_text(outcome.facts["look"]) for outcome in outcomes.values()]
    kinds = [outcome.facts["kind"] for outcome in outcomes.values()]
    shares = split_by_looks(list(outcomes), kinds, looks, options.split, tiles=False)
    rows = [
        {
            "image": outcome.files[0],
            "label": outcome.files[1],
            "split": split,
            "group": group,
            **{key: outcome.facts[key] for key in ("kind", "height", "width")},
        }
        for outcome, group, split in zip(outcomes.values(), shares.groups, shares.splits, strict=True)
    ]
    write_list(output, rows)
    write_picture_sheet(output / OVERVIEW, output, rows)
    everything = [*defects, *shares.copies]
    counts = np.sum([outcome.facts["counts"] for outcome in outcomes.values()], axis=0)
    numbers: dict[str, Any] = {"pictures": len(rows), "classes": list(CLASSES)}
    numbers |= {f"share_of_{c}": round(float(n / counts.sum()), 4) for c, n in zip(CLASSES, counts, strict=True)}
    numbers["stray_px"] = sum(outcome.facts["stray_px"] for outcome in outcomes.values())
    tables = {"By split and folder": count_by(rows, "split", "kind"), "Sizes": count_by(rows, "height", "width")}
    write_report(output, DataReport("White blood cells", identity, numbers, everything, tables))
    return summary_lines(output, rows, everything)
