"""Objects of a picture by a detector: windows that overlap by an object, each object once. Labels are `ops.detected`'s.

Windows never look further out of the picture than its sides must grow to suit the network: what is mirrored there
would be found as well, and take places in an answer that holds a fixed number of objects.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import ceil
from typing import Any

import numpy as np

from cellengine.engine.checkpoint import Checkpoint
from cellengine.engine.flow import Stop, overlap
from cellengine.engine.frugal import halve, within_memory
from cellengine.engine.plan import Plan
from cellengine.engine.predict import check_numbers, read_scaled
from cellengine.engine.scene import Scene
from cellengine.engine.session import Session
from cellengine.errors import ModelError
from cellengine.geometry import Region, Tile, round_up
from cellengine.ops.detected import Detected, detected_in_tile, drop_doubles, join_detected
from cellengine.ops.normalize import Scale
from cellengine.spec import Detections

Array = np.ndarray[Any, Any]

log = logging.getLogger(__name__)


def plan_windows(
    shape: tuple[int, ...], tile: tuple[int, ...], halo: tuple[int, ...], divisor: tuple[int, ...]
) -> list[Tile]:
    """Cover a picture of `shape` with windows of one size, in raster order; their cores partition it.

    A window is `tile`, or as large as the picture, grown to multiples of `divisor`, where that is smaller. Windows
    begin at multiples of `divisor`. Every core has `halo` around it within its window, but at the picture's border.
    All four are per axis, in px, the tile a multiple of the divisor. Raises ValueError when it leaves no core.
    """
    axes = [list(_axis(*sides)) for sides in zip(shape, tile, halo, divisor, strict=True)]
    tiles = []
    for parts in product(*axes):
        read, core = zip(*parts, strict=True)
        tiles.append(Tile(_region(read), _region(core)))
    return tiles


def _region(parts: tuple[tuple[int, int], ...]) -> Region:
    return Region(tuple(a for a, _ in parts), tuple(b for _, b in parts))


def _axis(length: int, tile: int, halo: int, divisor: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Window and core along one axis; cores meet in the middle of what two windows share."""
    whole = round_up(length, divisor)
    if whole <= tile:
        yield (0, whole), (0, length)
        return
    step = (tile - 2 * halo) // divisor * divisor
    if step < divisor:
        raise ValueError(f"A tile of {tile} px with a halo of {halo} leaves no core: take a larger tile.")
    count = ceil((whole - tile) / step) + 1
    starts = [round(i * (whole - tile) / (count - 1) / divisor) * divisor for i in range(count)]
    starts[-1] = whole - tile
    edges = [0, *((a + tile + b) // 2 for a, b in pairwise(starts)), length]
    for start, (low, high) in zip(starts, pairwise(edges), strict=True):
        yield (start, start + tile), (low, high)


@dataclass(frozen=True, slots=True)
class KeptWindows:
    """What is found in the windows of one picture, a record a window in a checkpoint."""

    checkpoint: Checkpoint
    index: int
    """of the picture in its source"""

    def found(self) -> dict[int, Detected]:
        """The objects of the windows that are finished, by number of the window."""
        store, places = self.checkpoint.labels, self.checkpoint.blocks(self.index)
        return {number: Detected(**store.tables(place)) for number, place in places.items()}

    def keep(self, number: int, found: Detected) -> None:
        """Store the objects of a window; any thread may."""
        tables = {name: getattr(found, name) for name in ("boxes", "scores", "classes", "masks")}
        self.checkpoint.keep_block(self.index, number, np.zeros((0, 0), np.uint32), tables)


@dataclass(frozen=True, slots=True)
class _Look:
    """A detector at work on one picture."""

    scene: Scene
    session: Session
    plan: Plan
    scale: Scale
    min_score: float

    def at(self, tiles: Sequence[Tile], batch: int) -> list[Detected]:
        """The objects of each of at most `batch` windows of one size, in one call of the network.

        Where that does not fit into the memory of the device, in several calls, and then in smaller windows, which
        may find an object twice.
        """
        shape = (batch, len(self.scene.channels), *tiles[0].read.shape)
        pieces = halve(tiles[0], self.plan.halo, self.plan.divisor)

        def parts() -> list[Detected]:
            if batch == 1:
                return [join_detected([found for piece in pieces for found in self.at([piece], 1)])]
            half = ceil(batch / 2)
            return [found for i in range(0, len(tiles), half) for found in self.at(tiles[i : i + half], half)]

        divisible = batch > 1 or len(pieces) > 0
        return within_memory(self.session, shape, lambda: self._run(tiles, shape), parts if divisible else None)

    def _run(self, tiles: Sequence[Tile], shape: tuple[int, ...]) -> list[Detected]:
        batch = np.zeros(shape, np.float32)
        for i, tile in enumerate(tiles):
            read_scaled(self.scene, tile.read, self.scale, batch[i])
        outputs = self.session.run(batch)
        check_numbers(outputs, tiles, self.scene, self.session)
        places = outputs["scores"].shape[1]
        for i, tile in enumerate(tiles):
            if outputs["count"][i] >= places:
                log.warning(
                    "The window at %s holds %d objects or more, all that %s can give: take a smaller --tile.",
                    tile.read.start,
                    places,
                    self.session.spec.name,
                )
        return [detected_in_tile(outputs, i, tile, self.min_score) for i, tile in enumerate(tiles)]


def detect(
    scene: Scene,
    session: Session,
    plan: Plan,
    scale: Scale,
    stop: Stop,
    progress: Callable[[int], None],
    kept: KeptWindows | None = None,
) -> Detected:
    """The objects of a whole picture, best first. `progress` is told the number of windows finished.

    Every call of the network gets a full batch, filled up with zeros. Windows that are `kept` are not computed again.
    Memory: per worker one batch of input and output, and for each object its mask and a byte a pixel of its box.
    """
    decoder = session.spec.decoder
    if not isinstance(decoder, Detections):
        raise ModelError(f"{session.spec.name}: a detector needs the decoder 'detections', found {decoder.kind!r}.")
    windows = plan_windows(plan.shape, plan.tile, plan.halo, plan.divisor)

    look = _Look(scene, session, plan, scale, decoder.min_score)

    def run(numbers: range) -> list[tuple[int, Detected]]:
        parts = list(zip(numbers, look.at([windows[number] for number in numbers], plan.batch), strict=True))
        for number, part in parts:
            if kept is not None and number not in found:
                kept.keep(number, part)
        return parts

    found = {} if kept is None else kept.found()
    # a batch holds the same windows whatever was finished before, so that a run that goes on computes the same bits
    batches = [range(i, min(i + plan.batch, len(windows))) for i in range(0, len(windows), plan.batch)]
    missing = [numbers for numbers in batches if any(number not in found for number in numbers)]
    progress(len(windows) - sum(map(len, missing)))
    for parts in overlap(run, missing, session.concurrency, stop):
        found |= {number: part for number, part in parts if number not in found}
        progress(len(parts))
    progress(len(plan.grid) - len(windows))  # the plan counts tiles as for score maps
    ordered = [found[number] for number in range(len(windows))]
    return drop_doubles(join_detected(ordered), decoder.max_iou, (plan.shape[-2], plan.shape[-1]))
