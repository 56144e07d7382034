"""Crops of single cells with a class, for classifiers: an .npz, a CSV of crops or of boxes, or a folder per class."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellengine.errors import InputError, UsageError
from cellengine.geometry import Region
from cellengine.io.axes import Array
from cellengine.io.boxes import Boxed, is_box_list, list_boxed
from cellengine.io.lists import Where, first_column, read_rows
from cellengine.io.opening import open_source, reader_of
from cellengine.io.splits import check_copies, check_splits, draw_split, join_copies

SPLITS = ("train", "val")


@dataclass(frozen=True, slots=True)
class Crop:
    """One cell."""

    name: str
    image: Array
    """(C, Y, X) as stored, the cell in the middle"""
    label: int
    """class, a number in the order of the names asked for"""
    split: str
    group: str
    """crops of one group (one field of view, or copies of each other) never meet across splits"""


@dataclass(frozen=True, slots=True)
class _Found:
    """One cell before its split is settled."""

    name: str
    image: Array
    label: str
    split: str
    group: str
    content: Hashable
    """the same for copies of one crop"""


def read_crops(
    path: Path,
    classes: Sequence[str],
    size_px: tuple[int, int],
    *,
    label: str = "label",
    where: Where | None = None,
    validation_share: float = 0.15,
    seed: int = 1,
) -> list[Crop]:
    """Every crop of a data set, in memory.

    Args:
        path: an .npz with the arrays `image` (n, Y, X) or (n, Y, X, C), `label` and optionally `split` and `group`; a
            CSV with the columns image and `label`, optionally split and group; a CSV of boxes (see `io.boxes`) with
            `label`, from whose pictures windows of `size_px` are cut around each box, reflected at the border; or a
            folder with a subfolder per class, optionally inside the folders train and val
        classes: names of the classes; in an .npz the class may be its number in this order
        size_px: window that is cut out of pictures; crops that are files of their own keep their size
        label: column or array that holds the class
        where: rows of a CSV that are used, see `Where`

    Without a split, `validation_share` is drawn by `seed`, whole groups at a time and of every class alike; of boxes
    whole pictures at a time. Raises UsageError when `path` does not exist, InputError for what cannot be used, such as
    the same crop in two splits.
    """
    if path.is_dir():
        found = _of_folder(path)
    elif path.suffix == ".npz" and path.is_file():
        found = _of_arrays(path, classes, label)
    elif path.is_file() and is_box_list(path):
        listed = list_boxed(path, label_column=label, where=where, validation_share=validation_share, seed=seed)
        found = _of_boxes(listed, size_px)
    elif path.is_file():
        found = _of_list(path, label, where)
    else:
        raise UsageError(f"{path} does not exist; expected an .npz, a CSV, or a folder with a folder per class.")
    unknown = sorted({crop.label for crop in found} - set(classes))
    if unknown:
        raise InputError(f"{path}: found the classes {', '.join(unknown[:5])}; the model has {', '.join(classes)}.")
    groups = [crop.group for crop in found]
    splits = [crop.split for crop in found]
    joined = join_copies(groups, [crop.content for crop in found])
    if not all(splits):
        shares = {"train": 1 - validation_share, "val": validation_share}
        splits = draw_split(joined, shares, seed, [crop.label for crop in found])
    check_splits(path, groups, splits)
    check_copies(path, [crop.name for crop in found], [crop.content for crop in found], splits)
    numbers = {name: i for i, name in enumerate(classes)}
    return [
        Crop(crop.name, crop.image, numbers[crop.label], split, group)
        for crop, split, group in zip(found, splits, joined, strict=True)
    ]


def window(image: Array, centre: Sequence[int], size_px: Sequence[int]) -> Array:
    """Part of `image` (C, *spatial) of `size_px` around `centre`, reflected where it leaves the picture; a copy."""
    index = []
    for c, n, size in zip(centre, size_px, image.shape[1:], strict=True):
        at = np.arange(c - n // 2, c - n // 2 + n)
        period = max(2 * (size - 1), 1)
        at = np.abs(at) % period
        index.append(np.minimum(at, period - at) if size > 1 else np.zeros_like(at))
    return np.ascontiguousarray(image[np.ix_(np.arange(image.shape[0]), *index)])


def _of_arrays(path: Path, classes: Sequence[str], label: str) -> list[_Found]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path.name}: cannot be read as an .npz of plain arrays ({error}).") from error
    missing = [name for name in ("image", label) if name not in arrays]
    if missing:
        known = ", ".join(arrays)
        raise InputError(f"{path.name}: no array {missing[0]!r}; found {known}. data.label names that of the classes.")
    images, labels = arrays["image"], arrays[label]
    if images.ndim not in (3, 4) or len(labels) != len(images):
        raise InputError(f"{path.name}: images {images.shape} and classes {labels.shape}; expected (n, Y, X) and (n,).")
    if labels.dtype.kind in "iub":
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
            raise InputError(f"{path.name}: classes up to {int(labels.max())}; the model has {len(classes)}, from 0.")
        names = [classes[int(number)] for number in labels]
    else:
        names = [str(name) for name in labels]
    splits = [str(s) for s in arrays["split"]] if "split" in arrays else [""] * len(names)
    groups = [str(g) for g in arrays["group"]] if "group" in arrays else [str(i) for i in range(len(names))]
    first = np.moveaxis(images, -1, 1) if images.ndim == 4 else images[:, None]
    return [
        _Found(f"{path.name}:{i}", image, name, split, group, _pixels(image))
        for i, (image, name, split, group) in enumerate(zip(first, names, splits, groups, strict=True))
    ]


def _of_list(path: Path, label: str, where: Where | None) -> list[_Found]:
    rows = read_rows(path, where or {}, label)
    column = first_column(path, rows[0], ("image", "file"), "the crops")
    missing = [row[column] for row in rows if not (path.parent / row[column]).is_file()]
    if missing:
        raise InputError(f"{path}: {missing[0]} does not exist ({len(missing)} of {len(rows)} crops are missing).")
    images = [_read(path.parent / row[column]) for row in rows]
    return [
        _Found(row[column], image, row[label], row.get("split", ""), row.get("group") or row[column], _pixels(image))
        for row, image in zip(rows, images, strict=True)
    ]


def _of_boxes(listed: Sequence[Boxed], size_px: tuple[int, int]) -> list[_Found]:
    found = []
    for boxed in listed:
        item, image = boxed.item, _read(boxed.item.image)
        for number, box in enumerate(boxed.boxes):
            # whole pictures have been compared; of two pictures, empty windows may well be alike
            content = item.image, number
            cut = window(image, box.centre, size_px)
            found.append(_Found(f"{item.image.name}:{number}", cut, box.label, item.split, item.group, content))
    return found


def _of_folder(folder: Path) -> list[_Found]:
    inner = {split: folder / split for split in SPLITS if (folder / split).is_dir()}
    found = []
    for split, root in (inner or {"": folder}).items():
        for kind in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
            files = sorted(p for p in kind.iterdir() if p.is_file() and reader_of(p))
            for file in files:
                image = _read(file)
                name = f"{kind.name}/{file.name}"
                found.append(_Found(name, image, kind.name, split, str(file), _pixels(image)))
    if not found:
        raise InputError(f"{folder}: no pictures found; expected a folder per class with the crops of that class.")
    return found


def _pixels(image: Array) -> Hashable:
    return image.shape, image.dtype, hashlib.sha256(image.tobytes()).digest()


def _read(path: Path) -> Array:
    with open_source(path) as source:
        image = source.read(Region.whole(source.shape))
        return np.ascontiguousarray(image if "C" in source.axes else image[None])
