"""Outlines for other programs: GeoJSON as QuPath opens it, and the ROI zip of ImageJ. One object after the other."""

from __future__ import annotations

import json
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from uuid import UUID, uuid5

import numpy as np

from cellengine.io.axes import Array
from cellengine.io.sink import partial_name, remove, writing

OutlineKind = Literal["geojson", "imagej"]
SUFFIXES: dict[OutlineKind, str] = {"geojson": ".outlines.geojson", "imagej": ".outlines.zip"}

_NAMES = UUID("6e2b2c1e-6c0e-4f0c-9a52-3f3a9f9b7d11")
"""of objects: the same object of the same file always has the same id"""
_VERSION = 227
_POLYGON, _SUBPIXEL = 0, 128
_LARGEST_SHORT = 32_767
_COLOURS = ((0, 160, 90), (200, 60, 60), (70, 110, 210), (200, 140, 20), (140, 80, 180), (40, 150, 170))


@dataclass(frozen=True, slots=True)
class Part:
    """A connected piece of an object in one plane."""

    outer: Array
    """corners x, y in px, int (n, 2); pixel 0 reaches from 0 to 1; not closed"""
    holes: Sequence[Array] = ()


@dataclass(frozen=True, slots=True)
class Outline:
    """An object in one plane."""

    label: int
    parts: Sequence[Part]
    z: int | None = None
    t: int | None = None
    kind: str = ""
    """its class, where the model tells it"""
    measurements: dict[str, float] = field(default_factory=dict)


class OutlineWriter(ABC):
    """A file of outlines that has its name once it is whole. Use it in a `with` statement."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = partial_name(path)

    @abstractmethod
    def add(self, outline: Outline) -> None:
        """Write one object. ResourceError when the disk is full."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what ends the file, and close it."""

    @abstractmethod
    def _abort(self) -> None:
        """Close the file as it is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._abort()
            remove(self._partial)
            return
        with writing(self.path):
            self._finish()
            self._partial.replace(self.path)


class GeoJsonWriter(OutlineWriter):
    """A FeatureCollection of detections with classification and measurements; drag it onto QuPath's image."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._colours: dict[str, tuple[int, int, int]] = {}
        self._first = True
        with writing(path):
            self._file = self._partial.open("w", encoding="utf-8")
            self._file.write('{"type":"FeatureCollection","features":[')

    def add(self, outline: Outline) -> None:
        """See `OutlineWriter.add`."""
        polygons = [[_closed(part.outer), *map(_closed, part.holes)] for part in outline.parts]
        one = len(polygons) == 1
        geometry: dict[str, Any] = {
            "type": "Polygon" if one else "MultiPolygon",
            "coordinates": polygons[0] if one else polygons,
        }
        if outline.z is not None or outline.t is not None:
            geometry["plane"] = {"c": -1, "z": outline.z or 0, "t": outline.t or 0}
        properties: dict[str, Any] = {"objectType": "detection", "name": str(outline.label)}
        if outline.kind:
            colour = self._colours.setdefault(outline.kind, _COLOURS[len(self._colours) % len(_COLOURS)])
            properties["classification"] = {"name": outline.kind, "color": list(colour)}
        properties["measurements"] = outline.measurements
        name = f"{self.path.name} {outline.label} {outline.z} {outline.t}"
        feature = {"type": "Feature", "id": str(uuid5(_NAMES, name)), "geometry": geometry, "properties": properties}
        with writing(self.path):
            self._file.write(("\n" if self._first else ",\n") + json.dumps(feature, separators=(",", ":")))
        self._first = False

    def _finish(self) -> None:
        self._file.write("\n]}\n")
        self._file.close()

    def _abort(self) -> None:
        self._file.close()


class RoiZipWriter(OutlineWriter):
    """Polygons for ImageJ's ROI manager, one a part, named by label. Holes are filled: its polygons have none."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with writing(path):
            self._zip = zipfile.ZipFile(self._partial, "w", zipfile.ZIP_DEFLATED)

    def add(self, outline: Outline) -> None:
        """See `OutlineWriter.add`."""
        for number, part in enumerate(outline.parts):
            where = "".join(f"-{axis}{i}" for axis, i in (("z", outline.z), ("t", outline.t)) if i is not None)
            name = f"{outline.label:07d}{where}" + (f"-{number + 1}" if len(outline.parts) > 1 else "")
            # a fixed time: the same objects give the same bytes
            entry = zipfile.ZipInfo(f"{name}.roi", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with writing(self.path):
                self._zip.writestr(entry, _roi(part.outer, name, outline.z, outline.t))

    def _finish(self) -> None:
        self._zip.close()

    def _abort(self) -> None:
        self._zip.close()


WRITERS: dict[OutlineKind, type[GeoJsonWriter | RoiZipWriter]] = {"geojson": GeoJsonWriter, "imagej": RoiZipWriter}


def _closed(ring: Array) -> list[list[int]]:
    """A ring whose last corner is its first, as GeoJSON has it."""
    corners: list[list[int]] = ring.tolist()
    return [*corners, corners[0]]


def _roi(corners: Array, name: str, z: int | None, t: int | None) -> bytes:
    """One polygon in ImageJ's format: a header of 64 bytes, corners, a second header of 64 bytes, the name."""
    left, top = corners.min(0).tolist()
    right, bottom = corners.max(0).tolist()
    count, far = len(corners), max(right, bottom) > _LARGEST_SHORT
    offsets = (corners - (left, top)).astype(">u2").tobytes(order="F")
    exact = corners.astype(">f4").tobytes(order="F") if far else b""
    second = 64 + len(offsets) + len(exact)
    bounds = [value & 0xFFFF for value in (top, left, bottom, right)]
    # position: of a plain stack; hyperstacks go by the slice and frame of the second header
    position = (z or t or 0) + 1 if z is not None or t is not None else 0
    header = struct.pack(">4shBx4HH", b"Iout", _VERSION, _POLYGON, *bounds, count if count < 1 << 16 else 0)
    header += struct.pack(">i12x", count) if count >= 1 << 16 else bytes(16)
    header += struct.pack(">hi4s4shhBBhii", 0, 0, b"", b"", 0, _SUBPIXEL if far else 0, 0, 0, 0, position, second)
    text = name.encode("utf-16-be")
    slices = [0 if i is None else i + 1 for i in (z, t)]
    places = struct.pack(">4x5i", 0, *slices, second + 64, len(name))
    roi: bytes = header + offsets + exact + places.ljust(64, b"\0") + text
    return roi


def parts_of(rings: Sequence[Array], areas: Sequence[float]) -> list[Part]:
    """The pieces of an object from its rings and their signed areas: each hole goes to the piece around it."""
    outers = [ring for ring, area in zip(rings, areas, strict=True) if area > 0]
    holes = [ring for ring, area in zip(rings, areas, strict=True) if area < 0]
    if len(outers) == 1:
        return [Part(outers[0], holes)]
    owned: list[list[Array]] = [[] for _ in outers]
    for hole in holes:
        owned[next(i for i, outer in enumerate(outers) if _surrounds(outer, hole))].append(hole)
    return [Part(outer, mine) for outer, mine in zip(outers, owned, strict=True)]


def _surrounds(outer: Array, hole: Array) -> bool:
    """Whether a point inside the hole is inside the ring; all edges run along the axes."""
    inner = int(np.lexsort((hole[:, 0], hole[:, 1]))[0])
    x, y = hole[inner, 0] + 0.5, hole[inner, 1] + 0.5
    a, b = outer, np.roll(outer, -1, 0)
    crossed = (a[:, 0] == b[:, 0]) & (a[:, 0] > x) & ((a[:, 1] > y) != (b[:, 1] > y))
    return bool(crossed.sum() % 2)
