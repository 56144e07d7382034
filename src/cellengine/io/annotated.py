"""Annotated pictures on disk: a CSV or a folder that says which label image belongs to which picture, and its split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellengine.errors import CellengineError, InputError, UsageError
from cellengine.geometry import Region
from cellengine.io.axes import Array
from cellengine.io.lists import ListedPair, Reference, Where, read_pairs
from cellengine.io.opening import open_source
from cellengine.io.source import ImageSource
from cellengine.io.splits import draw_split, tell_apart
from cellengine.ops.labels import relabel

_DENSE = 1 << 16
"""labels up to here stay as they are in any picture; beyond, none may be larger than the number of voxels"""
_NAMED = 5
"""defects that an error names; the others are counted"""


@dataclass(frozen=True, slots=True)
class Item:
    """One annotated picture."""

    image: Path
    label: Path
    split: str
    """train or val; others are allowed, and not used by training"""
    group: str
    """pictures of one group (one field of view) never meet across splits"""
    kind: str
    """value of the column that samples are balanced and scores are listed by"""
    image_dataset: str | None = None
    """which image of the file, where a list says so as `volume.h5:/raw`"""
    label_dataset: str | None = None
    axes: str | None = None
    """what the axes of the picture are, where the file does not say; the label image has the same without C"""


@dataclass(frozen=True, slots=True)
class Picture:
    """An annotated picture in memory."""

    item: Item
    image: Array
    """(C, *spatial), as stored"""
    labels: Array
    """(*spatial) integers from 0, which is background; small enough for tables of that length"""


def list_annotated(
    path: Path,
    *,
    kind_column: str | None = None,
    validation_share: float = 0.15,
    seed: int = 1,
    where: Where | None = None,
    axes: str | None = None,
) -> list[Item]:
    """Every annotated picture with its split.

    `path` is a CSV with the columns image and label (or mask; paths relative to it) and optionally split, group, axes
    and others; or a folder with the subfolders images and labels, matched by stem. Without a column split,
    `validation_share` of the pictures is drawn for validation by `seed`, whole groups at a time. `where` keeps rows
    (see `Where`); `axes` are those of pictures of which neither file nor list says any.

    Raises UsageError when `path` or the column does not exist, InputError for whatever would spoil a training: see
    `find_defects`. All of it is found before the first picture is decoded; the error counts it and names the first.
    """
    if path.is_dir():
        pairs = _pairs_of_folder(path)
    elif path.is_file():
        pairs = read_pairs(path, where)
    else:
        raise UsageError(f"{path} does not exist; expected a CSV, or a folder with images/ and labels/.")
    columns = pairs[0].values
    if kind_column and kind_column not in columns:
        raise UsageError(f"{path} has no column {kind_column!r}; found {', '.join(columns) or 'a folder'}.")
    complete = [(pair.image, pair.label, pair.values) for pair in pairs if pair.image and pair.label]
    problems = [_incomplete(number, pair) for number, pair in enumerate(pairs, 1) if not (pair.image and pair.label)]
    groups = [values.get("group") or str(image) for image, _, values in complete]
    if "split" in columns:
        splits = [values["split"] for _, _, values in complete]
    else:
        splits = draw_split(groups, {"train": 1 - validation_share, "val": validation_share}, seed)
    items = [
        Item(
            image=image.path,
            label=label.path,
            split=split,
            group=group,
            kind=values[kind_column] if kind_column else "",
            image_dataset=image.dataset,
            label_dataset=label.dataset,
            axes=values.get("axes") or axes or None,
        )
        for (image, label, values), split, group in zip(complete, splits, groups, strict=True)
    ]
    problems += find_defects(items)
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise InputError(f"The annotated pictures cannot be used: {'; '.join(problems[:_NAMED])}{more}.")
    return items


def open_image(item: Item) -> ImageSource:
    """The picture of `item`."""
    return open_source(item.image, axes=item.axes, dataset=item.image_dataset)


def open_labels(item: Item) -> ImageSource:
    """The label image of `item`."""
    axes = item.axes.upper().replace("C", "") if item.axes else None
    return open_source(item.label, axes=axes, dataset=item.label_dataset)


def read_annotated(item: Item, *, keep: Collection[int] = ()) -> Picture:
    """Read image and labels. Raises InputError when they do not fit each other, or labels are negative.

    Labels that are large for the picture (hashes, say) become 1 ... n. `keep` are values that mean no cell, such as
    that of voxels that nobody knows: they may be negative, and stay what they are.
    """
    with open_image(item) as source, open_labels(item) as label_source:
        problem = _misfit(item, source, label_source)
        if problem:
            raise InputError(f"{problem}.")
        image = source.read(Region.whole(source.shape))
        image = image if "C" in source.axes else image[None]
        labels = label_source.read(Region.whole(label_source.shape))
    return Picture(item, np.ascontiguousarray(image), _usable(labels, item, keep))


def _usable(labels: Array, item: Item, keep: Collection[int]) -> Array:
    """Labels that later steps may count with: none negative, none much larger than the number of voxels."""
    highest, lowest = int(labels.max(initial=0)), int(labels.min(initial=0))
    limit = max(_DENSE, labels.size)
    if lowest >= 0 and highest <= limit:
        return labels
    kept = np.isin(labels, list(keep))
    cells = np.where(kept, 0, labels)
    lowest = int(cells.min(initial=0))
    if lowest < 0:
        raise InputError(f"{item.label}: the labels hold {lowest}; expected whole numbers from 0, one a cell.")
    if int(cells.max(initial=0)) <= limit:
        return labels
    dense: Array = np.where(kept, labels, relabel(cells).astype(labels.dtype))
    return dense


def find_defects(items: Sequence[Item]) -> list[str]:
    """What would spoil a training with `items`, one sentence each, from the headers of the files.

    Files that are missing or damaged, labels of another size or type than the picture's, a split without pictures, a
    group or a picture (also a copy under another name) in two splits. About 2 ms a picture; whole files are read only
    to compare two of equal size and equal beginning.
    """
    missing = [p for i in items for p in (i.image, i.label) if not p.exists()]
    problems = [f"{p} does not exist" for p in missing]
    for item in items:
        if item.image.exists() and item.label.exists():
            problems += _header_defects(item)
    splits_of = defaultdict(set)
    for item in items:
        splits_of[item.group].add(item.split)
    problems += [f"the group {g} is in both {' and '.join(sorted(s))}" for g, s in splits_of.items() if len(s) > 1]
    used = {item.split for item in items}
    problems += [f"no picture has the split {split}" for split in ("train", "val") if split not in used]
    problems += [
        f"{same[0].image.name} ({same[0].split}) and {same[1].image.name} ({same[1].split}) are the same picture"
        for same in _same_in_two_splits([item for item in items if item.image.is_file()])
    ]
    return problems


def _pairs_of_folder(folder: Path) -> list[ListedPair]:
    images, labels = ({p.stem: p for p in sorted((folder / sub).glob("[!.]*.*"))} for sub in ("images", "labels"))
    missing = sorted(set(images) - set(labels))
    if not images or missing:
        found = f"no label picture for {', '.join(missing[:5])}" if missing else "no pictures in images/"
        raise InputError(f"{folder}: {found}; expected images/NAME.* and labels/NAME.* in pairs.")
    return [ListedPair(Reference(images[s]), Reference(labels[s]), {}) for s in images]


def _incomplete(number: int, pair: ListedPair) -> str:
    return f"{pair.image.path.name} has no label image" if pair.image else f"row {number} names no picture"


def _header_defects(item: Item) -> list[str]:
    try:
        with open_image(item) as image, open_labels(item) as labels:
            problem = _misfit(item, image, labels)
    except CellengineError as error:
        return [str(error).rstrip(".")]
    return [problem] if problem else []


def _misfit(item: Item, image: ImageSource, labels: ImageSource) -> str | None:
    """What is wrong with labels for an image, as far as shapes and types tell."""
    shape = tuple(n for n, axis in zip(image.shape, image.axes, strict=True) if axis != "C")
    if labels.shape != shape:
        return (
            f"{item.label}: the labels are {labels.shape}, the picture {item.image.name} is {shape}; "
            "they must cover the same voxels"
        )
    if labels.dtype.kind not in "ui":
        return f"{item.label}: labels of type {labels.dtype}; expected whole numbers, one a cell"
    return None


def _same_in_two_splits(items: Sequence[Item]) -> Iterator[tuple[Item, Item]]:
    """Pictures with the same bytes in different splits: of each such set the first two that differ in split."""
    alike: dict[Hashable, list[Item]] = defaultdict(list)
    for item, content in zip(items, tell_apart([item.image for item in items]), strict=True):
        alike[content, item.image_dataset].append(item)
    for same in alike.values():
        other = next((item for item in same if item.split != same[0].split), None)
        if other:
            yield same[0], other
