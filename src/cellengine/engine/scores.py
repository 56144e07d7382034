"""The scores of a picture while its blocks are labelled: from the cores of tiles to any box, for as long as needed."""

from __future__ import annotations

import heapq
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from cellengine.engine.checkpoint import Checkpoint, Slot
from cellengine.engine.plan import Plan
from cellengine.engine.predict import Scores, quantise
from cellengine.engine.schedule import Schedule, tile_number
from cellengine.geometry import Region
from cellengine.spec import ModelSpec

Array = np.ndarray[Any, Any]


def slot_bytes(spec: ModelSpec, plan: Plan) -> int:
    """Bytes of the scores of one tile."""
    return 2 * sum(output.channels for output in spec.outputs) * prod(plan.grid.step)


class TileScores:
    """Scores of the tiles of one picture, in slots of the checkpoint. Any thread may keep and read.

    A slot is free again when every block that reads its tile is labelled: the file grows with the length of a row of
    blocks (a layer of a volume), not with the picture.
    """

    def __init__(self, spec: ModelSpec, plan: Plan, schedule: Schedule, checkpoint: Checkpoint, picture: int) -> None:
        self._channels = {output.name: output.channels for output in spec.outputs}
        self._plan, self._schedule, self._checkpoint, self._picture = plan, schedule, checkpoint, picture
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        self._next = 0
        self._lock = Lock()

    def restore(self) -> list[int]:
        """Take over what an earlier run has kept and is still whole; the tiles that are here."""
        count = sum(self._channels.values())
        for tile, slot in self._checkpoint.tiles(self._picture).items():
            shape = (count, *self._plan.grid.cell(tile).shape)
            if self._schedule.is_used(tile) and self._checkpoint.scores.holds(slot.number, shape, slot.checksum):
                self._slots[tile] = slot.number
        self._next = 1 + max(self._slots.values(), default=-1)
        self._free = sorted(set(range(self._next)) - set(self._slots.values()))
        return list(self._slots)

    def keep(self, core: Region, outputs: dict[str, Array]) -> None:
        """Store the core of a tile, unless it is here or no block needs it any more."""
        tile = tile_number(self._plan, core)
        with self._lock:
            if tile in self._slots or not self._schedule.is_used(tile):
                return
            slot = self._slots[tile] = self._take_slot()
        values = np.empty((sum(self._channels.values()), *core.shape), np.uint16)
        for name, part in self._split(values).items():
            quantise(outputs[name], part)
        checksum = self._checkpoint.scores.write(slot, values)
        self._checkpoint.keep_tile(self._picture, tile, Slot(slot, checksum))

    def read(self, region: Region) -> Scores:
        """The scores of a box whose tiles are here, as `predict` gives those of a picture."""
        out = np.empty((sum(self._channels.values()), *region.shape), np.uint16)
        grid = self._plan.grid
        for tile in grid.meeting(region):
            box = grid.cell(tile)
            part = region.intersect(box)
            values = np.empty((len(out), *part.shape), np.uint16)
            self._checkpoint.scores.read(self._slots[tile], box, part, values)
            out[(slice(None), *part.relative_to(region))] = values
        return self._split(out)

    def finish(self, block: int) -> None:
        """A block is labelled and on disk: forget the scores that no other needs."""
        with self._lock:
            for tile in self._schedule.finish(block):
                heapq.heappush(self._free, self._slots.pop(tile))

    def _take_slot(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self._next += 1
        return self._next - 1

    def _split(self, values: Array) -> Scores:
        parts: Scores = {}
        first = 0
        for name, count in self._channels.items():
            parts[name] = values[first : first + count]
            first += count
        return parts
