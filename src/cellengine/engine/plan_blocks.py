"""How a source that is labelled in blocks is cut, and what that takes: decided before anything is done."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from cellengine.engine.blocks import Blocks, Margins, block_margins, choose_core
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import Plan, ram_limit
from cellengine.engine.scene import Scene
from cellengine.engine.schedule import Schedule
from cellengine.engine.scores import slot_bytes
from cellengine.engine.session import Session
from cellengine.errors import ResourceError
from cellengine.geometry import Cells
from cellengine.io import ImageSource
from cellengine.ops.threads import worker_count

DECODE_BYTES = 48
"""memory a voxel of a block in work: its scores as floats, its labels, and what the decoder needs for dense pictures"""
PIECE_BYTES = 24
"""memory a voxel of the picture takes while labels and scores are brought back to its grid and measured"""
BLOCK_SHARE = 1 / 4
"""share of a run's memory for blocks in work; the rest is for the network, the source's cache, and the program"""
WRITTEN_COPIES = 4
"""a piece that is written lies in memory so often: put together, waiting, cut into chunks, and compressed"""
AHEAD = 2
"""blocks that may wait for each thread that labels: beyond, the network waits, so that scores do not pile up"""


@dataclass(frozen=True, slots=True)
class Cut:
    """How a source is cut; frozen in its checkpoint, so that a run that goes on computes the same bits."""

    tile: tuple[int, ...]
    halo: tuple[int, ...]
    batch: int
    core: tuple[int, ...]
    """of a block, on the network's grid"""
    margins: Margins
    slot_bytes: int
    """of the scores of a tile"""


@dataclass(frozen=True, slots=True)
class Streaming:
    """How a source is labelled in blocks."""

    cut: Cut
    threads: int
    """blocks in work at a time"""
    piece: int
    """voxels of the picture that are measured or written at a time"""
    memory_bytes: int
    """of the blocks in work"""

    def schedule(self, plan: Plan) -> Schedule:
        """The order of tiles and blocks of one picture."""
        return Schedule(plan, self.blocks(plan.shape))

    def blocks(self, shape: tuple[int, ...]) -> Blocks:
        """The blocks of one picture of `shape`, as the network sees it."""
        return Blocks(shape, self.cut.core, self.cut.margins)


def plan_streaming(source: ImageSource, scene: Scene, plan: Plan, session: Session, options: InferOptions) -> Streaming:
    """The blocks that compute least for nothing within the memory, given the processors.

    ResourceError when not even one object and its surroundings fit.
    """
    allowed, margins = ram_limit(options), block_margins(session.spec)
    channels = source.shape[source.axes.index("C")] if "C" in source.axes else 1
    outputs = sum(output.channels for output in session.spec.outputs)
    raw_bytes = channels * max(4, source.dtype.itemsize)
    voxel_bytes = DECODE_BYTES + 2 * outputs + raw_bytes
    found: list[tuple[float, Streaming]] = []
    for threads in range(1, worker_count() + 1):
        share = BLOCK_SHARE * allowed / threads
        core = choose_core(plan.shape, margins, int(share / voxel_bytes))
        if core is not None:
            cut = Cut(plan.tile, plan.halo, plan.batch, core, margins, slot_bytes(session.spec, plan))
            read = prod(min(n, c + 2 * margins.overlap) for n, c in zip(plan.shape, core, strict=True))
            streaming = Streaming(cut, threads, int(share / (PIECE_BYTES + raw_bytes)), threads * read * voxel_bytes)
            found.append((_useful_work(plan.shape, core, margins, threads), streaming))
    if not found:
        smallest = prod(min(n, 3 * margins.overlap) for n in plan.shape) * voxel_bytes
        raise ResourceError(
            f"{source.name}: a block of {3 * margins.overlap} px a side needs about "
            f"{smallest / BLOCK_SHARE / 1e9:.1f} GB of memory, {allowed / 1e9:.1f} GB may be used: "
            "allow more with --max-ram."
        )
    return max(found, key=lambda pair: pair[0])[1]


def _useful_work(shape: tuple[int, ...], core: tuple[int, ...], margins: Margins, threads: int) -> float:
    """Voxels of cores labelled at a time, where blocks and their overlaps cost alike."""
    blocks = len(Cells(shape, core))
    read = prod(min(n, c + 2 * margins.overlap) for n, c in zip(shape, core, strict=True))
    return min(threads, blocks) * prod(shape) / (blocks * read)
