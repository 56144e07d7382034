"""Labels of pictures that do not fit in memory: in overlapping blocks, with the numbering of the whole. No network.

A block decodes its core and an overlap of at least one object around it. A piece of foreground that reaches into the
core and is no larger than the overlap is seen whole, so that it gets the labels of the whole-picture decode, voxel by
voxel. Objects of a larger piece are joined where two blocks agree on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np

from cellengine.engine.flow import Stop, overlap
from cellengine.engine.resample import Grid
from cellengine.geometry import Region
from cellengine.io.bricks import BrickFile
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


def plan_blocks(shape: tuple[int, ...], core: tuple[int, ...], margins: Margins) -> list[Block]:
    """Blocks with cores of `core` voxels (less at the end), in raster order."""
    whole = Region.whole(shape)
    blocks = []
    for at in product(*(range(ceil(n / c)) for n, c in zip(shape, core, strict=True))):
        start = tuple(i * c for i, c in zip(at, core, strict=True))
        kept = Region(start, tuple(a + c for a, c in zip(start, core, strict=True))).intersect(whole)
        read = kept.grow((margins.overlap,) * len(shape)).intersect(whole)
        trusted = kept.grow((margins.objects,) * len(shape)).intersect(whole)
        blocks.append(Block(at, kept, read, trusted))
    return blocks


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


def neighbours(blocks: list[Block], margins: Margins) -> Iterator[tuple[int, int]]:
    """Pairs of blocks whose cores one object may reach, by their numbers, the lower first."""
    places = {block.at: number for number, block in enumerate(blocks)}
    # cores shorter than an object: it may reach over several of them
    far = [1 + max(0, margins.objects - 2) // n for n in blocks[0].core.shape]
    steps = [s for s in product(*(range(-f, f + 1) for f in far)) if s > (0,) * len(far)]
    for number, block in enumerate(blocks):
        for step in steps:
            other = places.get(tuple(a + s for a, s in zip(block.at, step, strict=True)))
            if other is not None:
                yield number, other


@dataclass(frozen=True, slots=True)
class BlockLabels:
    """The labels of a picture in blocks, on disk, and what each is called in the whole."""

    blocks: list[Block]
    store: BrickFile
    names: list[Array]
    """for each block the uint32 number in the picture of each of its labels"""
    count: int
    """objects in the picture"""

    def local(self, number: int, region: Region) -> Array:
        """A part of what a block has read, with the block's own labels."""
        return _seen(self.store, number, self.blocks[number], region)


def label_blocks(
    decode: Callable[[Region], Array],
    grid: Grid,
    blocks: list[Block],
    margins: Margins,
    decoder: Decoder,
    store: BrickFile,
    threads: int,
    stop: Stop,
) -> BlockLabels:
    """Decode every block, keep its labels in `store`, and find the numbers of the whole picture.

    `decode(region)` gives uint32 labels 1 ... n of a box of the network's grid, as `blocks` are; several threads call
    it. The result depends on neither their number nor their speed. Objects are numbered in raster order of the picture;
    where its grid is coarser than the network's some may have no voxel on it, and get no number. Memory: a block and
    its decoding for each thread, and about 60 bytes a label.
    """

    def one(number: int) -> Kept:
        block = blocks[number]
        labels = decode(block.read)
        store.write(number, labels)
        count = int(labels.max(initial=0))
        if not grid.loses:
            return keep_core(labels[block.core.relative_to(block.read)], count, block.core.start, grid.network)
        place = grid.image_region(block.core)
        if not place.size:
            return keep_core(np.zeros(place.shape, np.uint32), count, place.start, grid.image)
        shown = labels[grid.network_region(place).relative_to(block.read)]
        return keep_core(grid.to_image(shown, place), count, place.start, grid.image)

    def link(pair: tuple[int, int]) -> Link:
        a, b = (blocks[number] for number in pair)
        seen = a.trusted.intersect(b.trusted)
        views = (_seen(store, number, block, seen) for number, block in zip(pair, (a, b), strict=True))
        labels_a, labels_b = views
        if isinstance(decoder, Components):
            return (*pair, sharing(labels_a, labels_b))
        return (*pair, agreeing(labels_a, labels_b, kept[pair[0]], kept[pair[1]]))

    kept = list(overlap(one, range(len(blocks)), threads, stop))
    links = list(overlap(link, neighbours(blocks, margins), threads, stop))
    # what the decoder drops for its size it has dropped; on a coarser grid the rest has fewer voxels
    names, count = number_blocks(kept, links, 0 if grid.loses else getattr(decoder, "min_size_px", 0))
    return BlockLabels(blocks, store, names, count)


def _seen(store: BrickFile, number: int, block: Block, region: Region) -> Array:
    start = tuple(a - b for a, b in zip(region.start, block.read.start, strict=True))
    stop = tuple(a - b for a, b in zip(region.stop, block.read.start, strict=True))
    return store.read(number, Region(start, stop))
