"""The scores of a picture while its blocks are labelled: from the cores of tiles to any box, for as long as needed."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from cellengine.engine.checkpoint import Checkpoint, Slot
from cellengine.engine.plan import Plan
from cellengine.engine.predict import Scores, quantise
from cellengine.engine.schedule import Schedule
from cellengine.errors import ResourceError
from cellengine.geometry import Region, round_up
from cellengine.io.slots import SlotFile
from cellengine.spec import ModelSpec

Array = np.ndarray[Any, Any]


PAGE_BYTES = 4096
"""slots begin on pages of memory: machines that write to one file on a network drive must not share any"""


def slot_bytes(spec: ModelSpec, plan: Plan) -> int:
    """Bytes of the scores of one tile."""
    return round_up(2 * sum(output.channels for output in spec.outputs) * prod(plan.grid.step), PAGE_BYTES)


def write_tile(file: SlotFile, slot: int, spec: ModelSpec, outputs: Mapping[str, Array]) -> int:
    """Store the core of a tile, output name -> float32 (channels, *core.shape); the checksum of what was written."""
    parts = [outputs[output.name] for output in spec.outputs]
    values = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), np.uint16)
    first = 0
    for part in parts:
        quantise(part, values[first : first + len(part)])
        first += len(part)
    return file.write(slot, values)


def read_box(file: SlotFile, slots: Mapping[int, Slot], spec: ModelSpec, plan: Plan, region: Region) -> Scores:
    """The scores of a box, as `predict` gives those of a picture. `slots`: tile -> slot, for every tile it meets."""
    channels = {output.name: output.channels for output in spec.outputs}
    out = np.empty((sum(channels.values()), *region.shape), np.uint16)
    for tile in plan.grid.meeting(region):
        box = plan.grid.cell(tile)
        part = region.intersect(box)
        values = np.empty((len(out), *part.shape), np.uint16)
        file.read(slots[tile].number, box, part, values)
        out[(slice(None), *part.relative_to(region))] = values
    ends = np.cumsum(list(channels.values()))
    return {name: out[end - count : end] for (name, count), end in zip(channels.items(), ends, strict=True)}


def check_slots(file: SlotFile, slots: Mapping[int, Slot], spec: ModelSpec, plan: Plan) -> None:
    """Refuse scores that are not what another process has written."""
    count = sum(output.channels for output in spec.outputs)
    for tile, slot in slots.items():
        if not file.holds(slot.number, (count, *plan.grid.cell(tile).shape), slot.checksum):
            raise ResourceError(
                f"{file.path} does not hold what another worker wrote to it: the output must lie on a file system that "
                "all workers share; run the same command again, it goes on from here."
            )


class TileScores:
    """Where the scores of the tiles of one picture are, in slots of the checkpoint. Any thread may ask.

    A slot is free again when every block that reads its tile is labelled: the file grows with the length of a row of
    blocks (a layer of a volume), not with the picture.
    """

    def __init__(self, spec: ModelSpec, plan: Plan, schedule: Schedule, checkpoint: Checkpoint, picture: int) -> None:
        self._channels = sum(output.channels for output in spec.outputs)
        self._plan, self._schedule, self._checkpoint, self._picture = plan, schedule, checkpoint, picture
        self._slots: dict[int, Slot] = {}
        self._free: list[int] = []
        self._next = 0
        self._lock = Lock()

    def restore(self) -> list[int]:
        """Take over what an earlier run has kept and is still whole; the tiles that are here."""
        for tile, slot in self._checkpoint.tiles(self._picture).items():
            shape = (self._channels, *self._plan.grid.cell(tile).shape)
            if self._schedule.is_used(tile) and self._checkpoint.scores.holds(slot.number, shape, slot.checksum):
                self._slots[tile] = slot
        taken = {slot.number for slot in self._slots.values()}
        self._next = 1 + max(taken, default=-1)
        self._free = sorted(set(range(self._next)) - taken)
        return list(self._slots)

    def reserve(self, tiles: Sequence[int]) -> dict[int, int]:
        """A slot for each of the tiles that a block needs and whose scores are not here."""
        with self._lock:
            missing = [tile for tile in tiles if tile not in self._slots and self._schedule.is_used(tile)]
            return {tile: self._take_slot() for tile in missing}

    def keep(self, slots: Mapping[int, int], checksums: Mapping[int, int]) -> None:
        """The scores of tiles are in the slots that were reserved for them."""
        for tile, number in slots.items():
            slot = Slot(number, checksums[tile])
            self._checkpoint.keep_tile(self._picture, tile, slot)
            with self._lock:
                self._slots[tile] = slot

    def slots_of(self, block: int) -> dict[int, Slot]:
        """Where the scores are that a block reads, all of which are here."""
        with self._lock:
            return {tile: self._slots[tile] for tile in self._schedule.tiles_of(block)}

    def finish(self, block: int) -> None:
        """A block is labelled and on disk: forget the scores that no other needs."""
        with self._lock:
            for tile in self._schedule.finish(block):
                heapq.heappush(self._free, self._slots.pop(tile).number)

    def _take_slot(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self._next += 1
        return self._next - 1
