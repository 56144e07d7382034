"""Labels of pictures that do not fit in memory: in overlapping blocks, with the numbering of the whole. No network.

A block decodes its core and an overlap of at least one object around it. A piece of foreground that reaches into the
core and is no larger than the overlap is seen whole, so that it gets the labels of the whole-picture decode, voxel by
voxel. Objects of a larger piece are joined where two blocks agree on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Any, overload

import numpy as np

from cellengine.engine.flow import Stop, overlap
from cellengine.engine.resample import Grid
from cellengine.geometry import Cells, Region
from cellengine.ops.smooth import TRUNCATE
from cellengine.ops.stitch import Kept, Link, agreeing, keep_core, number_blocks, sharing
from cellengine.spec import BoundaryWatershed, Components, Decoder, DistanceWatershed, ModelSpec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Margins:
    """How far a block looks beyond its core, in px on every side."""

    objects: int
    """the diameter that hardly any object exceeds"""
    reach: int
    """how far the decoder looks from a voxel: nearer than this to where a block was cut its labels are not trusted"""

    @property
    def overlap(self) -> int:
        """What is read around a core."""
        return self.objects + self.reach


@dataclass(frozen=True, slots=True)
class Block:
    """What is decoded together, and the part of it that is kept."""

    at: tuple[int, ...]
    """position in the grid of blocks"""
    core: Region
    """the cores of a plan partition the picture"""
    read: Region
    """the core and its overlap, inside the picture"""
    trusted: Region
    """the part of `read` where labels do not feel where the block was cut"""


def block_margins(spec: ModelSpec) -> Margins:
    """The margins that the objects and the decoder of a model ask for."""
    decoder = spec.decoder
    reach = 1
    if isinstance(decoder, DistanceWatershed):
        reach = max(1, int(TRUNCATE * decoder.smoothing_px + 0.5))
    elif isinstance(decoder, Components):
        reach = decoder.grow_px + 1
    elif isinstance(decoder, BoundaryWatershed):
        # its seeds lie as deep inside an object as the nearest boundary is far
        reach = ceil(spec.object_size_px / 2) + int(TRUNCATE * decoder.smoothing_px + 0.5)
    return Margins(max(1, ceil(spec.object_size_px)), reach)


class Blocks(Sequence[Block]):
    """The blocks of a picture of `shape`, with cores of `core` voxels (less at the end), in raster order.

    They are made when they are asked for: there may be a great many.
    """

    def __init__(self, shape: tuple[int, ...], core: tuple[int, ...], margins: Margins) -> None:
        self.cores, self.margins = Cells(shape, core), margins

    def __len__(self) -> int:
        return len(self.cores)

    @overload
    def __getitem__(self, number: int) -> Block: ...

    @overload
    def __getitem__(self, number: slice) -> list[Block]: ...

    def __getitem__(self, number: int | slice) -> Block | list[Block]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(f"block {number} of {len(self)}")
        core, whole = self.cores.cell(number), Region.whole(self.cores.shape)
        read, trusted = (
            core.grow((margin,) * len(self.cores.shape)).intersect(whole)
            for margin in (self.margins.overlap, self.margins.objects)
        )
        return Block(self.cores.at(number), core, read, trusted)

    def neighbours(self) -> Iterator[tuple[int, int]]:
        """Pairs of blocks whose cores one object may reach, by their numbers, the lower first."""
        counts = self.cores.counts
        # cores shorter than an object: it may reach over several of them
        far = [1 + max(0, self.margins.objects - 2) // n for n in self[0].core.shape]
        steps = [s for s in product(*(range(-f, f + 1) for f in far)) if s > (0,) * len(far)]
        for number in range(len(self)):
            at = self.cores.at(number)
            for step in steps:
                other = tuple(a + s for a, s in zip(at, step, strict=True))
                if all(0 <= i < n for i, n in zip(other, counts, strict=True)):
                    yield number, self.cores.number(other)


def choose_core(shape: tuple[int, ...], margins: Margins, voxels: int) -> tuple[int, ...] | None:
    """The largest equal cores whose blocks read at most `voxels` voxels; None when no block worth its overlap fits.

    The longest core is halved first. A core that is cut stays at least half as long as the overlap: below, nearly all
    that a block computes is thrown away.
    """
    smallest = max(1, margins.overlap // 2)
    parts = [1] * len(shape)
    while True:
        core = tuple(ceil(n / p) for n, p in zip(shape, parts, strict=True))
        if prod(min(n, c + 2 * margins.overlap) for n, c in zip(shape, core, strict=True)) <= voxels:
            return core
        axis = max(range(len(shape)), key=lambda i: core[i])
        if core[axis] <= smallest:
            return None
        parts[axis] += 1


def kept_in_core(labels: Array, block: Block, grid: Grid) -> Kept:
    """What a block with uint32 labels 1 ... n of its `read` keeps of each: its voxels of the picture in the core.

    Objects are numbered in raster order of the picture; where its grid is coarser than the network's some may have no
    voxel on it, and get no number.
    """
    count = int(labels.max(initial=0))
    if not grid.loses:
        return keep_core(labels[block.core.relative_to(block.read)], count, block.core.start, grid.network)
    place = grid.image_region(block.core)
    if not place.size:
        return keep_core(np.zeros(place.shape, np.uint32), count, place.start, grid.image)
    shown = labels[grid.network_region(place).relative_to(block.read)]
    return keep_core(grid.to_image(shown, place), count, place.start, grid.image)


def own_labels(labels: Array, kept: Kept) -> tuple[Array, Kept]:
    """The labels of a block without those that its core does not hold, numbered 1 ... n again; and what is kept.

    What a block saw of its neighbours' objects takes no part when it is compared with them. Not for components, where
    a piece in the overlap may be what holds two others together.
    """
    own = kept.voxels > 0
    own[0] = False
    names = np.where(own, np.cumsum(own), 0).astype(np.uint32)
    own[0] = True
    return names[labels], Kept(kept.voxels[own], kept.first[own])


def join_blocks(
    read: Callable[[int, Region], Array],
    kept: Sequence[Kept],
    blocks: Blocks,
    grid: Grid,
    decoder: Decoder,
    threads: int,
    stop: Stop,
) -> tuple[list[Array], int]:
    """For each block the uint32 number in the picture of each of its labels (0: none), and how many objects there are.

    `read(number, region)` gives the labels of a block in a part of its `read`; several threads call it. The result
    depends on neither their number nor their speed. Memory: about 60 bytes a label.
    """

    def link(pair: tuple[int, int]) -> Link:
        a, b = (blocks[number] for number in pair)
        seen = a.trusted.intersect(b.trusted)
        labels_a, labels_b = (read(number, seen) for number in pair)
        if isinstance(decoder, Components):
            return (*pair, sharing(labels_a, labels_b))
        return (*pair, agreeing(labels_a, labels_b, kept[pair[0]], kept[pair[1]]))

    links = overlap(link, blocks.neighbours(), threads, stop)
    # what the decoder drops for its size it has dropped; on a coarser grid the rest has fewer voxels
    return number_blocks(kept, links, 0 if grid.loses else getattr(decoder, "min_size_px", 0))
