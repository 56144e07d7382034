"""Which predicted file belongs to which true one. Names only; no file is read but the list of truths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from cellengine.errors import InputError, UsageError
from cellengine.io.lists import read_pairs, some

LABEL_SUFFIXES = (".tif", ".tiff", ".png", ".bmp", ".zarr", ".h5", ".hdf5")
"""what a folder is searched for; a Zarr is a folder but counts as one file"""

INNER_SUFFIXES = (".labels", ".ome")
"""dropped from a name together with the suffix after them: `cell.labels.ome.zarr` is about `cell`"""


@dataclass(frozen=True, slots=True)
class Truth:
    """One annotated picture."""

    path: Path
    dataset: str | None
    """which image of the file, where a list says so as `volume.h5:/label`"""
    names: tuple[str, ...]
    """what the prediction may be called: paths without suffix, the likeliest first"""
    image: Path | None
    """the picture itself, when the list names it"""
    group: str
    """value of the column that was asked for, or empty"""


@dataclass(frozen=True, slots=True)
class Pair:
    """A prediction beside its truth."""

    name: str
    predicted: Path
    truth: Path
    dataset: str | None
    """which image of the truth's file"""
    image: Path | None
    group: str


@dataclass(frozen=True, slots=True)
class Pairing:
    """Everything that is evaluated."""

    pairs: tuple[Pair, ...]
    unused: int
    """predictions that no truth asks for"""


def pair_files(
    predicted: Path, truth: Path, where: Mapping[str, str], by: str | None = None, images: Path | None = None
) -> Pairing:
    """Pair predictions with truths by name: `sub/cell.labels.tif` answers `sub/cell.png`.

    Args:
        predicted: a file or a folder; of a folder with `*.labels.*` files only these count
        truth: a file, a folder, or a CSV list with a column `label` or `mask` (paths relative to the list;
            `file.h5:/name` for an image in a file) and, if predictions are named after the pictures, `image`
        where: rows of the list that count, column by value
        by: column of the list that groups the scores
        images: folder of the pictures, for the drawings; replaces the column `image`

    The truth decides what is evaluated: each needs a prediction, and predictions without a truth are counted only.
    Raises InputError for missing or ambiguous predictions and unusable lists, UsageError for wrong options.
    """
    truths = read_list(truth, where, by) if truth.suffix.lower() == ".csv" else _plain_truths(truth, where, by)
    if predicted.exists() and not _is_folder(predicted) and len(truths) == 1:
        paths = [predicted]
        found: Sequence[int | None] = [0]
    else:
        paths, keys = _predictions(predicted)
        found = match_names([one.names for one in truths], keys)
    _refuse_missing(
        [one.path for one, index in zip(truths, found, strict=True) if index is None], len(truths), predicted
    )
    pictures = _pictures(images, truths)
    pairs = tuple(
        Pair(name, paths[index], one.path, one.dataset, picture, one.group)
        for name, one, index, picture in zip(short_names(truths), truths, found, pictures, strict=True)
        if index is not None
    )
    return Pairing(pairs, unused=len(paths) - len({pair.predicted for pair in pairs}))


def match_names(wanted: Sequence[Sequence[str]], offered: Sequence[str]) -> list[int | None]:
    """For each wanted name (with alternatives) the index of the offered one that means the same, or None.

    Two names mean the same when one is the end of the other, whole folders at a time: `images/a` and `a`, but not
    `ba` and `a`. An equal name is taken before a longer or shorter one. Raises InputError when two offered names fit
    equally well, or one offered name fits two wanted ones.
    """
    by_last: dict[str, list[int]] = {}
    for index, name in enumerate(offered):
        by_last.setdefault(PurePosixPath(name).name, []).append(index)
    found = [_match_name(names, offered, by_last) for names in wanted]
    taken: dict[int, str] = {}
    for names, chosen in zip(wanted, found, strict=True):
        if chosen is not None and taken.setdefault(chosen, names[0]) != names[0]:
            raise InputError(f"{offered[chosen]} fits both {taken[chosen]} and {names[0]}; expected names that differ.")
    return found


def _match_name(names: Sequence[str], offered: Sequence[str], by_last: Mapping[str, list[int]]) -> int | None:
    for name in names:
        same_end = [i for i in by_last.get(PurePosixPath(name).name, ()) if _is_end(name, offered[i])]
        equal = [i for i in same_end if offered[i] == name]
        fitting = equal or same_end
        if len(fitting) > 1:
            raise InputError(
                f"{name}: {len(fitting)} files fit ({some([offered[i] for i in fitting])}); expected one. "
                "Point to a folder in which each picture has one file."
            )
        if fitting:
            return fitting[0]
    return None


def _is_end(one: str, other: str) -> bool:
    a, b = PurePosixPath(one).parts, PurePosixPath(other).parts
    shorter = min(len(a), len(b))
    return a[-shorter:] == b[-shorter:]


def bare_name(path: PurePath) -> str:
    """A relative path without what says how it is stored: `a/b.labels.tif` and `a/b.ome.tif` are both `a/b`."""
    stem = path.stem
    while PurePath(stem).suffix.lower() in INNER_SUFFIXES:
        stem = PurePath(stem).stem
    return str(PurePosixPath(*path.parent.parts, stem))


def short_names(truths: Sequence[Truth]) -> list[str]:
    """The last part of each name where these are all different, else the whole."""
    names = [one.names[0] for one in truths]
    last = [PurePosixPath(name).name for name in names]
    return last if len(set(last)) == len(last) else names


def read_list(path: Path, where: Mapping[str, str], by: str | None) -> list[Truth]:
    """The truths that a CSV list names; arguments and errors as `pair_files`."""
    pairs = read_pairs(path, where, by)
    truths = []
    for number, pair in enumerate(pairs, 1):
        if pair.label is None:
            raise InputError(
                f"{path}: picture {number} of {len(pairs)} names no label image; expected one in each row."
            )
        files = [one.path for one in (pair.image, pair.label) if one]
        truths.append(
            Truth(
                path=pair.label.path,
                dataset=pair.label.dataset,
                names=_possible_names(_as_listed(file, path.parent) for file in files),
                image=pair.image.path if pair.image else None,
                group=pair.values[by] if by else "",
            )
        )
    missing = [one.path for one in truths if not one.path.exists()]
    if missing:
        raise InputError(f"{path}: {len(missing)} of {len(truths)} listed files do not exist ({some(missing)}).")
    return truths


def _as_listed(file: Path, folder: Path) -> Path:
    """The path as the list in `folder` gives it: relative, or absolute where that is so."""
    return file.relative_to(folder) if file.is_relative_to(folder) else file


def _plain_truths(truth: Path, where: Mapping[str, str], by: str | None) -> list[Truth]:
    if where or by:
        raise UsageError(f"--where and --by choose rows of a CSV list; {truth} is none.")
    if not truth.exists():
        raise UsageError(f"{truth} does not exist.")
    root, files = (truth, find_files(truth)) if _is_folder(truth) else (truth.parent, [truth])
    if not files:
        raise InputError(f"{truth}: no label images found; expected files ending in {', '.join(LABEL_SUFFIXES)}.")
    return [Truth(file, None, _possible_names([file.relative_to(root)]), None, "") for file in files]


def _predictions(predicted: Path) -> tuple[list[Path], list[str]]:
    if not predicted.exists():
        raise UsageError(f"{predicted} does not exist.")
    if not _is_folder(predicted):
        return [predicted], [bare_name(PurePath(predicted.name))]
    files = find_files(predicted)
    labels = [file for file in files if ".labels." in file.name] or files
    if not labels:
        raise InputError(f"{predicted}: no label images found; expected files such as cell.labels.tif.")
    return labels, [bare_name(file.relative_to(predicted)) for file in labels]


def find_files(folder: Path) -> list[Path]:
    """All files (and Zarr folders) below `folder` that may hold labels, hidden and partial ones left out, sorted."""
    found: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name.endswith(".partial"):
            continue
        if entry.suffix.lower() in LABEL_SUFFIXES:
            found.append(entry)
        elif entry.is_dir():
            found.extend(find_files(entry))
    return found


def _is_folder(path: Path) -> bool:
    return path.is_dir() and path.suffix.lower() != ".zarr"


def _possible_names(paths: Iterable[PurePath]) -> tuple[str, ...]:
    """Without suffix, and with it: of two inputs with one stem the outputs keep the suffix."""
    names = [name for path in paths for name in (bare_name(path), path.as_posix())]
    return tuple(dict.fromkeys(names))


def _pictures(images: Path | None, truths: Sequence[Truth]) -> list[Path | None]:
    if images is None:
        return [one.image for one in truths]
    if not images.is_dir():
        raise UsageError(f"--images {images} is not a folder.")
    files = [file for file in sorted(images.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    found = match_names([one.names for one in truths], [bare_name(file.relative_to(images)) for file in files])
    return [None if index is None else files[index] for index in found]


def _refuse_missing(missing: Sequence[Path], total: int, predicted: Path) -> None:
    if missing:
        raise InputError(
            f"{len(missing)} of {total} annotated pictures have no prediction in {predicted} ({some(missing)}). "
            "Predict them too, or choose the ones to evaluate with a CSV list and --where."
        )
