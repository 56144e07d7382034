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
from typing import Any

import numpy as np

from cellengine.engine.flow import Stop, overlap
from cellengine.engine.resample import Grid
from cellengine.geometry import Region
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


def join_blocks(
    read: Callable[[int, Region], Array],
    kept: Sequence[Kept],
    blocks: list[Block],
    grid: Grid,
    margins: Margins,
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

    links = overlap(link, neighbours(blocks, margins), threads, stop)
    # what the decoder drops for its size it has dropped; on a coarser grid the rest has fewer voxels
    return number_blocks(kept, links, 0 if grid.loses else getattr(decoder, "min_size_px", 0))
