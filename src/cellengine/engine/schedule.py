"""In what order tiles are computed so that blocks can be labelled early and scores be forgotten soon. Integers only."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from cellengine.engine.blocks import Blocks
from cellengine.engine.plan import Plan
from cellengine.geometry import Region, Tile


class Schedule:
    """Which tiles are still to be computed, and which blocks have all that they read.

    Tiles come in the order in which blocks, in raster order, first read them; a batch holds the same tiles whatever
    was finished before, so that a run that goes on computes the same bits. Not safe for several threads at once.
    """

    def __init__(self, plan: Plan, blocks: Blocks) -> None:
        self._plan, self._blocks, self._tiles = plan, blocks, plan.grid
        self._order = np.fromiter(self._by_first_use(), np.int64, len(self._tiles))
        self._here = np.zeros(len(self._tiles), bool)
        self._users = np.zeros(len(self._tiles), np.int64)
        self._waiting = np.zeros(len(blocks), np.int64)
        self._finished = np.zeros(len(blocks), bool)

    def begin(self, finished: Collection[int]) -> None:
        """Say which blocks were finished before."""
        self._finished[list(finished)] = True
        for number in np.flatnonzero(~self._finished).tolist():
            tiles = self.tiles_of(number)
            self._waiting[number] = len(tiles)
            self._users[tiles] += 1

    def tiles_of(self, block: int) -> list[int]:
        """The tiles that a block reads."""
        return list(self._tiles.meeting(self._blocks[block].read))

    def is_needed(self, tile: int) -> bool:
        """Whether a block that is not finished reads a tile that is not here."""
        return self._users[tile] > 0 and not self._here[tile]

    def is_used(self, tile: int) -> bool:
        """Whether a block that is not finished reads a tile."""
        return bool(self._users[tile] > 0)

    @property
    def missing(self) -> int:
        """Tiles in the batches that are still to be computed."""
        return sum(map(len, self._batches_to_do()))

    def batches(self) -> Iterator[list[Tile]]:
        """The batches that are still to be computed, with every tile that was in them at first."""
        for numbers in self._batches_to_do():
            yield [self._plan.tile_at(number) for number in numbers]

    def arrived(self, tiles: Collection[int]) -> list[int]:
        """Take note of tiles whose scores are here; the blocks that have waited for nothing else."""
        ready = []
        for tile in tiles:
            if not self.is_needed(tile):
                continue
            self._here[tile] = True
            around = self._tiles.cell(tile).grow((self._blocks.margins.overlap,) * len(self._plan.shape))
            for block in self._blocks.cores.meeting(around):
                if not self._finished[block]:
                    self._waiting[block] -= 1
                    if self._waiting[block] == 0:
                        ready.append(block)
        return sorted(ready)

    def finish(self, block: int) -> list[int]:
        """Take note that a block is labelled; the tiles that nobody needs any more."""
        self._finished[block] = True
        tiles = self.tiles_of(block)
        self._users[tiles] -= 1
        return [tile for tile in tiles if self._users[tile] == 0]

    def most_kept(self, ahead: int) -> int:
        """The most tiles whose scores are kept at a time when at most `ahead` blocks wait to be labelled."""
        users = np.zeros(len(self._tiles), np.int64)
        for number in range(len(self._blocks)):
            users[self.tiles_of(number)] += 1
        seen = np.zeros(len(self._tiles), bool)
        kept = most = 0
        for number in range(len(self._blocks)):
            tiles = self.tiles_of(number)
            kept += len(tiles) - int(seen[tiles].sum())
            seen[tiles] = True
            most = max(most, kept)
            if number >= ahead:
                done = self.tiles_of(number - ahead)
                users[done] -= 1
                kept -= int((users[done] == 0).sum())
        return most

    def _by_first_use(self) -> Iterator[int]:
        seen = np.zeros(len(self._tiles), bool)
        for number in range(len(self._blocks)):
            for tile in self.tiles_of(number):
                if not seen[tile]:
                    seen[tile] = True
                    yield tile

    def _batches_to_do(self) -> Iterator[list[int]]:
        for first in range(0, len(self._order), self._plan.batch):
            numbers = self._order[first : first + self._plan.batch].tolist()
            if any(self.is_needed(number) for number in numbers):
                yield numbers


def tile_number(plan: Plan, core: Region) -> int:
    """The number of the tile whose core this is."""
    grid = plan.grid
    return grid.number(tuple(a // s for a, s in zip(core.start, grid.step, strict=True)))
