"""The work on the pieces of a picture: tiles to scores in slots, scores to the labels of a block. In any process.

A run in blocks plans, keeps the record and writes the outputs; whoever opens the same source, model and scratch file
does the work between, piece by piece, and gives the same bits: the process itself, or workers on other machines.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from cellengine.engine.assemble import counter, is_scored
from cellengine.engine.blocks import Block, Blocks, Margins, kept_in_core, own_labels
from cellengine.engine.checkpoint import Slot
from cellengine.engine.label import label
from cellengine.engine.measured import Measured
from cellengine.engine.plan import Plan
from cellengine.engine.predict import Scores, compute_batch
from cellengine.engine.run import Clock
from cellengine.engine.scene import Scene
from cellengine.engine.scores import read_box, write_tile
from cellengine.engine.session import Session
from cellengine.io.bricks import pack_record
from cellengine.io.slots import SlotFile
from cellengine.ops.measure import ObjectStatistics
from cellengine.spec import Components

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Workpiece:
    """One picture of a source in work: all that is decided of it, as plain data."""

    index: int
    """of the picture in its source"""
    plan: Plan
    core: tuple[int, ...]
    """of a block"""
    margins: Margins
    piece: int
    """voxels of the picture that are measured at a time"""
    measured: Measured

    @property
    def blocks(self) -> Blocks:
        """The blocks of the picture."""
        return Blocks(self.plan.shape, self.core, self.margins)


@dataclass(frozen=True, slots=True)
class LabelledBlock:
    """What became of a block."""

    record: bytes
    """its labels, what was measured of them and what joins them, as `pack_record` packs it"""
    seconds: dict[str, float]
    """by stage"""


class Hands(Protocol):
    """Who does the work on the pieces of one source. Any thread may ask."""

    tiles_at_once: int
    """batches that may usefully be asked for at a time"""
    blocks_at_once: int

    def compute(self, of: Workpiece, tiles: Sequence[int], slots: Mapping[int, int]) -> dict[int, int]:
        """Run the network on a batch of tiles, and write the scores of those that have a slot.

        Tiles are numbers in the plan. Returns the checksum of each tile that was written.
        """
        ...

    def label(self, of: Workpiece, block: int, slots: Mapping[int, Slot]) -> LabelledBlock:
        """Label a block whose tiles are in `slots` (tile -> slot), and measure its core."""
        ...


class OwnHands:
    """The work is done by the threads that ask for it."""

    def __init__(self, pictures: Sequence[Scene], session: Session, scores: SlotFile, blocks_at_once: int = 1) -> None:
        """`pictures`: those of the source, as `scenes` gives them."""
        self._pictures, self._session, self._scores = pictures, session, scores
        self.tiles_at_once, self.blocks_at_once = session.concurrency, blocks_at_once
        self._memory = threading.local()

    def compute(self, of: Workpiece, tiles: Sequence[int], slots: Mapping[int, int]) -> dict[int, int]:
        """See `Hands.compute`."""
        plan, scene = of.plan, self._scene(of)
        places = [plan.tile_at(number) for number in tiles]
        shape = (plan.batch, len(scene.channels), *plan.tile)
        if getattr(self._memory, "shape", None) != shape:
            # fresh memory for every batch would cost more in page faults than reading the tile
            self._memory.shape, self._memory.batch = shape, np.zeros(shape, np.float32)
        cores = compute_batch(places, self._memory.batch, scene.seen, self._session, plan, of.measured.scale)
        return {
            number: write_tile(self._scores, slots[number], self._session.spec, outputs)
            for number, outputs in zip(tiles, cores, strict=True)
            if number in slots
        }

    def label(self, of: Workpiece, block: int, slots: Mapping[int, Slot]) -> LabelledBlock:
        """See `Hands.label`."""
        clock, spec, scene, where = Clock(), self._session.spec, self._scene(of), of.blocks[block]
        with clock("label"):
            scores = read_box(self._scores, slots, spec, of.plan, where.read)
            labels = label(scores, spec.decoder, spec.voxel_size_um)
        with clock("measure"):
            kept = kept_in_core(labels, where, scene.grid)
            if not isinstance(spec.decoder, Components):
                labels, kept = own_labels(labels, kept)
            rows = len(kept.voxels)
            counts, sums = (table[:rows] for table in self._count(of, where, labels, scores).arrays)
            tables = {"voxels": kept.voxels, "first": kept.first, "counts": counts, "sums": sums}
            record = pack_record(labels, tables)
        return LabelledBlock(record, dict(clock.seconds))

    def _scene(self, of: Workpiece) -> Scene:
        scene = self._pictures[of.index]
        return replace(scene, fill=True) if of.measured.not_finite else scene

    def _count(self, of: Workpiece, block: Block, labels: Array, scores: Scores) -> ObjectStatistics:
        """Measurements of the block's own labels in its core, on the picture's grid, piece by piece."""
        scene, spec = self._scene(of), self._session.spec
        total, grid, scored = counter(scene, spec), scene.grid, is_scored(spec)
        for piece in grid.image_region(block.core).pieces(of.piece):
            seen = grid.network_region(piece).relative_to(block.read)
            here = grid.to_image(labels[seen], piece)
            if not here.any():
                continue
            values = scene.read_all_channels(piece)
            if scored:
                foreground = grid.to_image(scores["foreground"][0][seen], piece)
                common = np.result_type(values.dtype, foreground.dtype)
                values = np.concatenate([values, foreground[None]], dtype=common, casting="unsafe")
            total.add(here, values, piece.start, workers=1)
        return total
