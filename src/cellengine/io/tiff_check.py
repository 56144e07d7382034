"""Whether a TIFF file is whole, found out before anything is decoded; tifffile returns what is left of a cut file.

Three things are checked: the chain of image file directories and their values end inside the file, the pixel data of
every page lie inside the file, and the file holds enough bytes for the image that it claims.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from cellengine.errors import InputError

_TYPE_BYTES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8], np.uint64)
"""size of each TIFF data type by its number"""
_LAST_STANDARD_TAG = 32767
"""private tags of other programs often carry values with a meaning of their own, so only those below are checked"""
_IMAGEJ_TAGS = (50838, 50839)
_GREATEST_RATIO = {1: 1, 5: 3000, 8: 1100, 32773: 70, 32946: 1100}
"""how far each scheme can compress at best: none, LZW, deflate, PackBits; others see `_GREATEST_RATIO_OTHERS`"""
_GREATEST_RATIO_OTHERS = 40_000


@dataclass(frozen=True, slots=True)
class Plane:
    """One page of the image: where its pixels lie."""

    path: Path
    offsets: tuple[int, ...]
    """where each strip or tile begins; 0 for one that is absent and read as the fill value"""
    counts: tuple[int, ...]
    """stored bytes of each strip or tile"""
    tables: bytes | None
    """JPEG tables shared by the strips or tiles"""
    contiguous: bool
    """the pixels lie in one piece from offsets[0], final but for the byte order"""

    @property
    def missing(self) -> int:
        """Strips or tiles that are absent."""
        return 0 if self.contiguous else sum(1 for o, n in zip(self.offsets, self.counts, strict=True) if not (o and n))


def check_directories(path: Path) -> None:
    """Walk the chain of directories of the TIFF at `path`; InputError when it leaves the file or runs in a circle."""
    size = path.stat().st_size
    seen: set[int] = set()
    with FileIO(path) as file:
        for offset, end in _directories(file, size, path.name):
            if offset in seen:
                raise InputError(f"{path.name}: the list of TIFF pages runs in a circle; the file is damaged.")
            if end > size:
                raise _cut(path.name, end, size)
            seen.add(offset)
    if not seen:
        raise InputError(f"{path.name}: a TIFF file without any image.")


def _directories(file: FileIO, size: int, name: str) -> Iterator[tuple[int, int]]:
    """Offset of each directory, and the end of the last byte that it or its values need."""
    header = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if len(header) < 8 or order is None:
        raise InputError(f"{name}: not a TIFF file, or cut within its first bytes.")
    big = struct.unpack(order + "H", header[2:4])[0] == 43
    word, number = ("Q", "Q") if big else ("I", "H")
    head, tail = struct.calcsize(order + number), struct.calcsize(order + word)
    entry = np.dtype(
        [("code", order + "u2"), ("type", order + "u2"), ("count", order + f"u{tail}"), ("at", order + f"u{tail}")]
    )
    if len(header) < 2 * tail:
        raise _cut(name, 2 * tail, size)
    offset = struct.unpack(order + word, header[tail : 2 * tail])[0]
    while offset:
        file.seek(offset)
        start = file.read(head)
        count = struct.unpack(order + number, start)[0] if len(start) == head else 0
        end = offset + head + count * entry.itemsize + tail
        if len(start) < head or end > size:
            raise _cut(name, max(end, offset + head), size)
        body = file.read(count * entry.itemsize + tail)
        yield offset, max(end, _values_end(np.frombuffer(body, entry, count), tail))
        offset = struct.unpack(order + word, body[-tail:])[0]


def _values_end(entries: np.ndarray[tuple[int], np.dtype[np.void]], inline: int) -> int:
    """End of the last byte of the values that do not fit into the entries themselves."""
    kind = np.minimum(entries["type"], len(_TYPE_BYTES) - 1)
    nbytes = entries["count"].astype(np.float64) * _TYPE_BYTES[kind].astype(np.float64)
    outside = (nbytes > inline) & ((entries["code"] <= _LAST_STANDARD_TAG) | np.isin(entries["code"], _IMAGEJ_TAGS))
    return int((entries["at"].astype(np.float64) + nbytes)[outside].max(initial=0.0))


def check_planes(name: str, planes: list[Plane], plane_bytes: int, segment_bytes: int, compression: int) -> None:
    """Check that every plane's pixels lie inside its file, and that the stored bytes can make the image.

    `plane_bytes` and `segment_bytes` are the sizes of a plane and of its largest strip or tile without compression.
    """
    ratio = _GREATEST_RATIO.get(compression, _GREATEST_RATIO_OTHERS)
    sizes: dict[Path, int] = {}
    stored = 0
    for plane in planes:
        if plane.path not in sizes:
            sizes[plane.path] = plane.path.stat().st_size
        size = sizes[plane.path]
        end = plane.offsets[0] + plane_bytes if plane.contiguous else _end(plane)
        if end > size:
            raise _cut(name, end, size)
        stored += plane_bytes if plane.contiguous else sum(plane.counts)
        if not plane.contiguous and max(plane.counts, default=0) * ratio * 2 < segment_bytes and not plane.missing:
            raise _bomb(name, segment_bytes, max(plane.counts, default=0))
    if stored * ratio < plane_bytes * len(planes) and not (stored and any(p.missing for p in planes)):
        raise _bomb(name, plane_bytes * len(planes), stored)
    if sum(sizes.values()) * _GREATEST_RATIO_OTHERS < plane_bytes * len(planes):
        raise _bomb(name, plane_bytes * len(planes), sum(sizes.values()))


def _end(plane: Plane) -> int:
    return max((o + n for o, n in zip(plane.offsets, plane.counts, strict=True)), default=0)


def _cut(name: str, expected: int, found: int) -> InputError:
    return InputError(
        f"{name}: the file ends after {found} bytes, but its contents reach to byte {expected}; "
        f"it is incomplete: copy it again from where it was made."
    )


def _bomb(name: str, claimed: int, stored: int) -> InputError:
    return InputError(
        f"{name}: the file claims {claimed / 1e9:.3g} GB of pixels, which the {stored} bytes stored for them "
        f"cannot hold; it is damaged."
    )
