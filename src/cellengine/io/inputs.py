"""Which files a command line means, and the names of their outputs. Nothing is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

from cellengine.errors import UsageError
from cellengine.io.opening import READERS, reader_of

OWN_OUTPUTS = (".labels.tif", ".labels.ome.zarr", ".overlay.png")
"""what `infer` writes; left out when a folder is searched, so that a second run does not take it for input"""
_DOUBLE_SUFFIXES = (".ome.tif", ".ome.tiff", ".ome.btf", ".ome.tf8", ".ome.zarr")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One image that a command line asked for."""

    path: Path
    relative: Path
    """below the folder that was named; just the file's name when the file itself was named"""

    @property
    def stem(self) -> Path:
        """`relative` without the suffix that names the format: plate/a.ome.tif -> plate/a."""
        name = self.relative.name
        double = next((s for s in _DOUBLE_SUFFIXES if name.lower().endswith(s) and len(name) > len(s)), None)
        return self.relative.with_name(name[: -len(double)] if double else self.relative.stem)


def find_inputs(paths: Sequence[str | os.PathLike[str]]) -> list[InputFile]:
    """The images meant by `paths`: files, folders (searched to the bottom), OME-Zarr folders, and glob patterns.

    In folders and patterns only known suffixes count, hidden files and our own outputs do not; the order is that of
    the arguments, and by name within one. A file named twice comes once.

    Raises UsageError for a path that does not exist and for a folder or pattern without images.
    """
    found: dict[Path, InputFile] = {}
    for argument in [os.fspath(path) for path in paths]:
        if not argument:
            raise UsageError("An input path is empty; expected a file, a folder or a pattern.")
        files = list(_expand(argument))
        if not files:
            raise UsageError(
                f"{argument}: no images here; expected OME-Zarr folders or files ending in {', '.join(READERS)}."
            )
        for file in files:
            found.setdefault(file.path.resolve(), file)
    return list(found.values())


def _expand(argument: str) -> Iterator[InputFile]:
    path = Path(argument)
    if path.exists():
        if path.is_dir() and reader_of(path) is None:
            yield from _search(path, path)
        else:
            yield InputFile(path, Path(path.name if path.name not in ("", "..") else path.resolve().name))
    elif has_magic(argument):
        parts = path.parts
        base = Path(*parts[: next(i for i, part in enumerate(parts) if has_magic(part))])
        try:
            hits = sorted(base.glob(str(Path(*parts[len(base.parts) :]))))
        except ValueError as error:
            raise UsageError(
                f"{argument}: no valid pattern ({error}); ** stands for whole folders: a/**/*.tif."
            ) from error
        for hit in hits:
            inside_zarr = any(reader_of(parent) for parent in hit.parents if parent != base and base in parent.parents)
            hidden = any(part.startswith(".") for part in hit.relative_to(base).parts)
            if reader_of(hit) and not (inside_zarr or hidden or _skipped(hit)):
                yield InputFile(hit, hit.relative_to(base))
    else:
        raise UsageError(f"{argument}: there is no such file or folder.")


def _search(folder: Path, base: Path) -> Iterator[InputFile]:
    for path in sorted(folder.iterdir()):
        if _skipped(path):
            continue
        if reader_of(path):
            yield InputFile(path, path.relative_to(base))
        elif path.is_dir():
            yield from _search(path, base)


def _skipped(path: Path) -> bool:
    return path.name.startswith(".") or is_own_output(path)


def is_own_output(path: Path) -> bool:
    """Whether the name is one that `infer` gives to its labels and overlays."""
    return path.name.lower().endswith(OWN_OUTPUTS)


def output_stems(files: Sequence[InputFile]) -> list[Path]:
    """For each input the path below the output folder to which `.labels.tif` and the like are appended; all different.

    Usually `InputFile.stem`. Inputs that would share one keep their suffix (a.png, a.tif), and those of one name from
    different folders (1/a.tif, 2/a.tif) the part of their path that differs.
    """
    stems = [file.stem for file in files]
    if _shared(stems):
        shared = _shared(stems)
        stems = [file.relative if stem in shared else stem for file, stem in zip(files, stems, strict=True)]
    if _shared(stems):
        shared = _shared(stems)
        clashing = [file.path.resolve() for file, stem in zip(files, stems, strict=True) if stem in shared]
        common = os.path.commonpath([path.parent for path in clashing])
        stems = [
            file.path.resolve().relative_to(common) if stem in shared else stem
            for file, stem in zip(files, stems, strict=True)
        ]
    return stems


def _shared(stems: Sequence[Path]) -> set[Path]:
    return {stem for stem, n in Counter(stems).items() if n > 1}
