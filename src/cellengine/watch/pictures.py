"""What counts as one picture in a watched folder, and whether it is complete. Nothing is decoded, nothing remembered.

A picture is a file of a known kind, a Zarr folder as a whole, or the files of one OME-TIFF together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from cellengine.errors import InputError
from cellengine.io.inputs import is_own_output
from cellengine.io.opening import READERS
from cellengine.io.source import DECODE_ERRORS

ZARR = ".zarr"
_OME_TIFF = (".ome.tif", ".ome.tiff", ".ome.btf", ".ome.tf8")


@dataclass(frozen=True, slots=True)
class State:
    """What tells a picture that is still being written from one that rests."""

    size: int
    """bytes of all its files"""
    changed_ns: int
    """time of the last change of any of them"""
    arrived_ns: int
    """when it appeared here: the change of the directory entry, which a copy that keeps the old times has too"""


@dataclass(frozen=True, slots=True)
class Folder:
    """A watched folder, without the part of it that the outputs go to."""

    base: Path
    """absolute"""
    output: Path
    """absolute; it may lie inside `base`"""

    def walk(self) -> Iterator[str]:
        """Every picture below the folder, as a path relative to it; one directory is listed at a time.

        A folder that cannot be listed is left out: it may be gone, and comes again with the next walk.
        """
        waiting = [self.base]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        path = Path(entry.path)
                        if self._hidden(path):
                            continue
                        if entry.is_dir() and path.suffix.lower() != ZARR:
                            waiting.append(path)
                        elif _is_picture(path):
                            yield path.relative_to(self.base).as_posix()
            except OSError:
                continue

    def picture_of(self, changed: Path) -> str | None:
        """The picture that a changed file belongs to, relative to the folder; None when it belongs to none."""
        try:
            parts = changed.relative_to(self.base).parts
        except ValueError:
            return None
        path = self.base
        for part in parts:
            path /= part
            if self._hidden(path):
                return None
            if path.suffix.lower() == ZARR:
                return path.relative_to(self.base).as_posix()
        return path.relative_to(self.base).as_posix() if parts and _is_picture(path) else None

    def _hidden(self, path: Path) -> bool:
        return path.name.startswith(".") or is_own_output(path) or path == self.output


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in READERS


def state_of(path: Path) -> State | None:
    """Size and times of a picture, of a folder those of all its files; None when it is gone."""
    try:
        own = path.stat()
        if not path.is_dir():
            return State(own.st_size, own.st_mtime_ns, max(own.st_ctime_ns, own.st_mtime_ns))
        size, newest = 0, own.st_mtime_ns
        for root, _, names in os.walk(path):
            for name in names:
                found = Path(root, name).stat()
                size, newest = size + found.st_size, max(newest, found.st_mtime_ns)
        return State(size, newest, own.st_ctime_ns)
    except OSError:
        return None


def series_of(path: Path) -> tuple[str, ...]:
    """Names of the files that make up one OME-TIFF, in the order in which its metadata name them; `path`'s own among
    them. A file by itself is a series of one.

    Raises InputError for a file that cannot be read (yet), or whose metadata lie in a file that is no picture.
    """
    if not path.name.lower().endswith(_OME_TIFF):
        return (path.name,)
    try:
        with tifffile.TiffFile(path) as tif:
            text = tif.pages.first.description
        root = ElementTree.fromstring(text) if text.lstrip().startswith("<") else ElementTree.Element("none")
    except DECODE_ERRORS as error:
        raise InputError(f"{path.name}: cannot be read ({error}); it may be incomplete.") from error
    binary = root.find("{*}BinaryOnly")
    if binary is not None:
        return _named_by(path, binary.get("MetadataFile", ""))
    names = [uuid.get("FileName", "") for uuid in root.iterfind(".//{*}TiffData/{*}UUID")]
    # a name with a folder in it would lead out of the place of the series
    files = tuple(dict.fromkeys(Path(name).name for name in names if name))
    return files if path.name in files else (path.name,)


def _named_by(path: Path, master: str) -> tuple[str, ...]:
    """The series of a file that only points at the one with the metadata."""
    other = path.with_name(Path(master).name)
    if not other.name.lower().endswith(_OME_TIFF) or other == path:
        raise InputError(
            f"{path.name}: its metadata are in {master or 'no file'}; expected them in an OME-TIFF beside it."
        )
    if not other.exists():
        return (other.name, path.name)
    files = series_of(other)
    return files if path.name in files else (path.name,)
