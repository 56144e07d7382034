"""Where things lie in an image: regions, and the tiles that cover it. Integers only; no arrays, no files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod


@dataclass(frozen=True, slots=True)
class Region:
    """A box in voxel coordinates, half-open, one entry per axis. It may leave the image."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Region:
        """The region that an array of `shape` covers."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along each axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels; 0 when any side is empty."""
        return prod(max(0, n) for n in self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Slices into an array whose origin is the image's; the region must not leave the image."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def relative_to(self, outer: Region) -> tuple[slice, ...]:
        """Slices that cut this region out of an array holding `outer`."""
        return tuple(slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, outer.start, strict=True))

    def seen_from(self, outer: Region) -> Region:
        """This region in the coordinates of an array holding `outer`."""
        start, stop = (tuple(i - o for i, o in zip(side, outer.start, strict=True)) for side in (self.start, self.stop))
        return Region(start, stop)

    def intersect(self, other: Region) -> Region:
        """The part both cover; sides that do not meet become empty, never negative."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Region(start, tuple(max(a, b) for a, b in zip(start, stop, strict=True)))

    def grow(self, margin: tuple[int, ...]) -> Region:
        """This region with `margin` voxels more on each side, per axis."""
        return Region(
            tuple(a - m for a, m in zip(self.start, margin, strict=True)),
            tuple(b + m for b, m in zip(self.stop, margin, strict=True)),
        )

    def pieces(self, voxels: int) -> list[Region]:
        """This region cut into boxes of at most `voxels` voxels (at least one), in raster order of the cuts.

        The longest side is halved first. A region without voxels has no pieces.
        """
        if self.size == 0:
            return []
        if self.size <= max(1, voxels):
            return [self]
        axis = max(range(len(self.start)), key=lambda i: self.shape[i])
        middle = (self.start[axis] + self.stop[axis]) // 2
        low = Region(self.start, tuple(middle if i == axis else n for i, n in enumerate(self.stop)))
        high = Region(tuple(middle if i == axis else n for i, n in enumerate(self.start)), self.stop)
        return low.pieces(voxels) + high.pieces(voxels)

    def contains(self, other: Region) -> bool:
        """Whether `other` lies inside this region."""
        return all(a <= b for a, b in zip(self.start, other.start, strict=True)) and all(
            a >= b for a, b in zip(self.stop, other.stop, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Cells:
    """An image cut into cells of one size, less at the end. Cells are numbered from 0 in raster order."""

    shape: tuple[int, ...]
    """of the image"""
    step: tuple[int, ...]
    """of a cell, at least 1 along every axis"""

    @classmethod
    def of_chunks(cls, shape: tuple[int, ...], chunks: tuple[int, ...], voxels: int) -> Cells:
        """Cells of whole chunks, as many as `voxels` allow (at least one), so that no chunk is touched twice.

        What lies next to each other along the last axes comes together first.
        """
        step = [min(c, n) for c, n in zip(chunks, shape, strict=True)]
        for axis in reversed(range(len(shape))):
            others = prod(n for i, n in enumerate(step) if i != axis)
            step[axis] = min(shape[axis], max(1, voxels // (others * step[axis])) * step[axis])
        return cls(shape, tuple(step))

    @property
    def counts(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(-(-n // s) for n, s in zip(self.shape, self.step, strict=True))

    def __len__(self) -> int:
        return prod(self.counts)

    def __iter__(self) -> Iterator[Region]:
        """The cells in raster order."""
        return map(self.cell, range(len(self)))

    def number(self, at: tuple[int, ...]) -> int:
        """The number of the cell at a position in the grid."""
        number = 0
        for i, count in zip(at, self.counts, strict=True):
            number = number * count + i
        return number

    def at(self, number: int) -> tuple[int, ...]:
        """The position in the grid of a cell: the inverse of `number`."""
        position = []
        for count in reversed(self.counts):
            number, i = divmod(number, count)
            position.append(i)
        return tuple(reversed(position))

    def cell(self, number: int) -> Region:
        """The part of the image in a cell."""
        start = tuple(i * s for i, s in zip(self.at(number), self.step, strict=True))
        return Region(start, tuple(min(a + s, n) for a, s, n in zip(start, self.step, self.shape, strict=True)))

    def meeting(self, region: Region) -> Iterator[int]:
        """The cells that share voxels with `region`, in raster order."""
        inside = region.intersect(Region.whole(self.shape))
        if inside.size:
            ends = zip(inside.start, inside.stop, self.step, strict=True)
            yield from map(self.number, product(*(range(a // s, -(-b // s)) for a, b, s in ends)))


@dataclass(frozen=True, slots=True)
class Tile:
    """What the network reads, and the part of its answer that is kept."""

    read: Region
    """core plus halo; always of the planned tile shape, so that every batch has one shape"""
    core: Region
    """inside the image; the cores of a plan partition it exactly"""


def round_up(value: int, divisor: int) -> int:
    """The smallest multiple of `divisor` that is not below `value`."""
    return -(-value // divisor) * divisor


def plan_tiles(
    image: tuple[int, ...], tile: tuple[int, ...], halo: tuple[int, ...], divisor: tuple[int, ...]
) -> Iterator[Tile]:
    """Cover `image` with tiles, in raster order.

    Tile origins are multiples of `divisor`: pooling then meets the same pixels as in the whole image, and tiled
    inference equals whole-image inference wherever `halo` covers the receptive field.

    All four are given per axis, in voxels. Raises ValueError when a tile has no core left.
    """
    halo = tuple(round_up(h, d) for h, d in zip(halo, divisor, strict=True))
    step = tuple(t - 2 * h for t, h in zip(tile, halo, strict=True))
    if any(s <= 0 or s % d for s, d in zip(step, divisor, strict=True)):
        raise ValueError(
            f"A tile of {tile} with a halo of {halo} leaves a core of {step}. "
            f"The core must be positive and a multiple of {divisor}: take a larger tile."
        )
    for corner in product(*(range(0, n, s) for n, s in zip(image, step, strict=True))):
        core = Region(corner, tuple(min(c + s, n) for c, s, n in zip(corner, step, image, strict=True)))
        start = tuple(c - h for c, h in zip(corner, halo, strict=True))
        yield Tile(Region(start, tuple(a + t for a, t in zip(start, tile, strict=True))), core)
