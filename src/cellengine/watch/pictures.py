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

    def walk(self, below: Path | None = None) -> Iterator[str]:
        """Every picture in the folder, or in the part `below` of it, as a path relative to the folder.

        One directory is listed at a time. One that cannot be listed is left out: it may be gone, and comes again with
        the next walk.
        """
        waiting = [below or self.base]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        path = Path(entry.path)
                        if self._hidden(path) or (entry.is_symlink() and self._leads_back(path)):
                            continue
                        if path.suffix.lower() != ZARR and _is_folder(entry):
                            waiting.append(path)
                        elif _is_picture(path):
                            yield path.relative_to(self.base).as_posix()
            except OSError:
                continue

    def pictures_at(self, changed: Path) -> Iterator[str]:
        """The pictures, relative to the folder, that a reported change concerns: the one that a file belongs to, or
        all in a folder, which may have been moved here with what is in it."""
        try:
            parts = changed.relative_to(self.base).parts
        except ValueError:
            return
        path = self.base
        for part in parts:
            path /= part
            if self._hidden(path) or (path.is_symlink() and self._leads_back(path)):
                return
            if path.suffix.lower() == ZARR:
                yield path.relative_to(self.base).as_posix()
                return
        if os.path.isdir(path):  # noqa: PTH112 - the method of Path raises where the folder may not be entered
            yield from self.walk(path)
        elif _is_picture(path):
            yield path.relative_to(self.base).as_posix()

    def _hidden(self, path: Path) -> bool:
        return path.name.startswith(".") or is_own_output(path) or path == self.output

    def _leads_back(self, link: Path) -> bool:
        """Whether a linked folder leads to what is looked through anyway, or to the outputs: pictures would be found
        under two names, or without end. Links in a linked folder are not followed, for they may lead anywhere.
        """
        if not os.path.isdir(link):  # noqa: PTH112 - as above
            return False
        target, known = link.resolve(), (self.base, self.output)
        nested = any(target.is_relative_to(one) or one.is_relative_to(target) for one in known)
        return nested or not link.parent.resolve().is_relative_to(self.base)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in READERS


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one that can be listed; a link to itself is none, and must not spoil what lies beside it."""
    try:
        return entry.is_dir()
    except OSError:
        return False


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
