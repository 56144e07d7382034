"""One volume and its labels from any file into an HDF5 file, block by block: memory does not grow with the volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellengine.errors import InputError
from cellengine.geometry import Region
from cellengine.io import ImageSource, open_source
from cellengine.io.hdf5_writer import Hdf5Writer
from cellengine.io.lists import Reference
from cellengine.ops import gaussian
from cellengine.ops.spline import nearest_voxels, spline_box, spline_region
from cellengine.ops.touching import boundary_band, part_touching
from cellengine.train.prepare.narrow import Range
from cellengine.train.prepare.pieces import count_pieces

Array = NDArray[Any]

SCAN_VOXELS = 1 << 22
"""voxels read at once to see what the values are"""
READ_VOXELS = 1 << 24
"""voxels of the source that one block of the result may need: 128 MB as float64, of which up to three copies exist"""
BLOCK = (32, 128, 128)
"""voxels of a block of the result; whole chunks of the file"""
FULL = 255
"""what a boundary target of 1 is stored as"""


@dataclass(frozen=True, slots=True)
class Pair:
    """A volume and its labels on disk."""

    image: Reference
    label: Reference
    axes: str | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, each once."""
        return tuple(dict.fromkeys((self.image.path, self.label.path)))

    def open_image(self) -> ImageSource:
        """The volume. Raises InputError and UsageError."""
        return open_source(self.image.path, axes=self.axes, dataset=self.image.dataset)

    def open_labels(self) -> ImageSource:
        """The label volume. Raises InputError and UsageError."""
        return open_source(self.label.path, axes=self.axes, dataset=self.label.dataset)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is done to one pair."""

    new_shape: tuple[int, ...]
    """that the volume is resampled to"""
    padded_shape: tuple[int, ...]
    """that it is padded to afterwards, at the far ends: the volume with its lowest value, labels with 0"""
    voxel_size_um: tuple[float, ...] | None = None
    """of the new voxels"""
    gap: bool = False
    boundary_px: int = 0
    boundary_blur_px: float = 0.0
    """in px of a voxel's shortest side"""

    @property
    def blur_sigmas(self) -> tuple[float, ...]:
        """Standard deviation of the blur in voxels, per axis: the same length along each, as training blurs."""
        sides = self.voxel_size_um or (1.0,) * len(self.new_shape)
        return tuple(self.boundary_blur_px * min(sides) / side for side in sides)

    @property
    def reach(self) -> tuple[int, ...]:
        """How far from a voxel the labels decide what is written there, per axis."""
        band = [self.boundary_px // 2 + ceil(4 * sigma) + 1 for sigma in self.blur_sigmas]
        return tuple(max(int(self.gap), n if self.boundary_px else 0) for n in band)


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen on the way."""

    shape: tuple[int, ...]
    stored_dtype: str
    dtype: str
    lowest: float
    highest: float
    cells: int
    """labels before anything was done"""
    cells_after: int
    highest_label: int
    missing_numbers: int
    """between 1 and the highest label"""
    lost_by_resampling: tuple[int, ...]
    lost_by_gap: tuple[int, ...]
    pieces: int | None
    """connected pieces of all cells together after the gap (26 neighbours); None where nothing was parted"""


def count_blocks(shape: tuple[int, ...], how: Conversion) -> int:
    """How many blocks `convert` reads and writes for a volume of `shape`."""
    counted = sum(1 for _ in _slabs(how.padded_shape)) if how.gap else 0
    return 2 * sum(1 for _ in _slabs(shape)) + sum(1 for _ in _blocks(how.padded_shape, BLOCK)) + counted


def convert(pair: Pair, output: Path, how: Conversion, tick: Callable[[int], None] = lambda blocks: None) -> Facts:
    """Write `raw`, `label` and, where asked for, `boundary` of a pair into the HDF5 file `output`.

    The volume gets the smallest type that holds its values without loss, is resampled by a spline of order 3 and, if of
    whole numbers, rounded; labels are resampled by nearest neighbour, then parted. `boundary` is made of the labels
    before they are parted: uint8, 255 for 1. `tick` hears of every block that is done. Raises InputError for NaN, for
    negative or fractional labels, and for damaged files.
    """
    with pair.open_image() as image, pair.open_labels() as labels:
        values = _range_of(image, tick)
        if values.not_finite:
            raise InputError(f"{values.not_finite} voxels are not finite (NaN or infinity)")
        before = _labels_of(labels, tick)
        stored = values.dtype
        kind = np.uint16 if before.highest < 2**16 else np.uint32
        resampled, parted = _Seen(), _Seen()
        with Hdf5Writer(output, how.padded_shape, "ZYX", how.voxel_size_um) as file:
            _create(file, stored, kind, how)
            for block in _blocks(how.padded_shape, BLOCK):
                inside = block.intersect(Region.whole(how.new_shape))
                raw = np.full(block.shape, values.lowest, stored)
                if inside.size:
                    raw[inside.relative_to(block)] = _resampled(image, inside, how.new_shape, stored)
                    cells, boundary = _labels_and_boundary(labels, inside, how, kind, resampled)
                    parted.add(cells)
                    file.write("label", inside, cells)
                    if boundary is not None:
                        file.write("boundary", inside, boundary)
                file.write("raw", block, raw)
                tick(1)
        kept = parted.numbers
        return Facts(
            shape=how.padded_shape,
            stored_dtype=str(image.dtype),
            dtype=str(stored),
            lowest=values.lowest,
            highest=values.highest,
            cells=len(before.numbers),
            cells_after=len(kept),
            highest_label=before.highest,
            missing_numbers=before.highest - len(before.numbers),
            lost_by_resampling=tuple(sorted(before.numbers - resampled.numbers)),
            lost_by_gap=tuple(sorted(resampled.numbers - kept)),
            pieces=_pieces_of(output, tick) if how.gap else None,
        )


@dataclass(slots=True)
class _Seen:
    """Which labels were met."""

    numbers: set[int] = field(default_factory=set)

    @property
    def highest(self) -> int:
        return max(self.numbers, default=0)

    def add(self, labels: Array) -> None:
        self.numbers.update(np.unique(labels[labels > 0]).tolist())


def _create(file: Hdf5Writer, stored: np.dtype[Any], kind: Any, how: Conversion) -> None:
    file.create("raw", stored)
    file.create("label", kind)
    if how.boundary_px:
        file.create("boundary", np.uint8, meaning=f"boundary, {FULL} is 1")


def _range_of(image: ImageSource, tick: Callable[[int], None]) -> Range:
    values = Range()
    for block in _slabs(image.shape):
        values.add(image.read(block))
        tick(1)
    return values


def _labels_of(labels: ImageSource, tick: Callable[[int], None]) -> _Seen:
    """The numbers of the cells. Raises InputError for values that are no labels."""
    seen, values = _Seen(), Range()
    for block in _slabs(labels.shape):
        part = labels.read(block)
        values.add(part)
        if values.not_finite or not values.whole or values.lowest < 0 or values.highest >= 2**32:
            found = "fractions" if not values.whole else f"values from {values.lowest} to {values.highest}"
            raise InputError(f"the labels hold {found}; expected whole numbers from 0, one a cell")
        seen.add(part.astype(np.uint32))
        tick(1)
    return seen


def _slabs(shape: tuple[int, ...]) -> Iterator[Region]:
    planes = max(1, SCAN_VOXELS // prod(shape[1:]))
    return _blocks(shape, (planes, *shape[1:]))


def _blocks(shape: tuple[int, ...], side: tuple[int, ...]) -> Iterator[Region]:
    for start in product(*(range(0, n, s) for n, s in zip(shape, side, strict=True))):
        yield Region(start, tuple(min(a + s, n) for a, s, n in zip(start, side, shape, strict=True)))


def _resampled(image: ImageSource, region: Region, new_shape: tuple[int, ...], stored: np.dtype[Any]) -> Array:
    """A box of the resampled volume; halved until what must be read for it is small."""
    if image.shape == new_shape:
        return image.read(region).astype(stored)
    needed = spline_region(region, image.shape, new_shape)
    if needed.size > READ_VOXELS and max(region.shape) > 1:
        axis = region.shape.index(max(region.shape))
        middle = (region.start[axis] + region.stop[axis]) // 2
        cut = tuple(middle if i == axis else n for i, n in enumerate(region.stop))
        rest = tuple(middle if i == axis else n for i, n in enumerate(region.start))
        halves = (Region(region.start, cut), Region(rest, region.stop))
        return np.concatenate([_resampled(image, half, new_shape, stored) for half in halves], axis)
    values = spline_box(image.read(needed), region, image.shape, new_shape)
    if stored.kind in "ui":
        limits = np.iinfo(stored)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(stored)


def _labels_and_boundary(
    labels: ImageSource, region: Region, how: Conversion, kind: Any, resampled: _Seen
) -> tuple[Array, Array | None]:
    """A box of the resampled labels, parted if so, and of the boundary target. Made with the neighbourhood it needs."""
    wide = region.grow(how.reach).intersect(Region.whole(how.new_shape))
    cells = _nearest(labels, wide, how.new_shape).astype(kind)
    core = region.relative_to(wide)
    resampled.add(cells[core])
    boundary = None
    if how.boundary_px:
        band = boundary_band(cells, how.boundary_px).astype(np.float32)
        smooth = gaussian(band, how.blur_sigmas) if how.boundary_blur_px else band
        boundary = np.rint(smooth[core] * FULL).clip(0, FULL).astype(np.uint8)
    return (part_touching(cells) if how.gap else cells)[core], boundary


def _nearest(labels: ImageSource, region: Region, new_shape: tuple[int, ...]) -> Array:
    """A box of the resampled labels; planes are read one by one where most of them are skipped."""
    places = [
        nearest_voxels(a, b, size, new)
        for a, b, size, new in zip(region.start, region.stop, labels.shape, new_shape, strict=True)
    ]
    out = np.empty(region.shape, labels.dtype)
    for i, z in enumerate(places[0].tolist()):
        box = Region((z, *(int(p[0]) for p in places[1:])), (z + 1, *(int(p[-1]) + 1 for p in places[1:])))
        plane = labels.read(box)[0]
        out[i] = plane[np.ix_(*(p - p[0] for p in places[1:]))]
    return out


def _pieces_of(path: Path, tick: Callable[[int], None]) -> int:
    """How many pieces the labels in a file are when nobody tells one from another: cells that touch are one."""

    def slabs(source: ImageSource) -> Iterator[Array]:
        for slab in _slabs(source.shape):
            yield source.read(slab) > 0
            tick(1)

    with open_source(path, dataset="label") as source:
        return count_pieces(slabs(source))
