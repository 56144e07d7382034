"""Objects of a picture by a detector: windows that overlap by an object, each object once. Labels are `ops.detected`'s.

Windows never look further out of the picture than its sides must grow to suit the network: what is mirrored there
would be found as well, and take places in an answer that holds a fixed number of objects.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from math import ceil
from typing import Any

import numpy as np

from cellengine.engine.flow import Stop, overlap
from cellengine.engine.plan import Plan
from cellengine.engine.predict import read_scaled
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


def detect(
    scene: Scene, session: Session, plan: Plan, scale: Scale, stop: Stop, progress: Callable[[int], None]
) -> Detected:
    """The objects of a whole picture, best first. `progress` is told the number of windows finished.

    Every call of the network gets a full batch, filled up with zeros. Memory: per worker one batch of input and
    output, and for each object its mask and a byte a pixel of its box.
    """
    decoder = session.spec.decoder
    if not isinstance(decoder, Detections):
        raise ModelError(f"{session.spec.name}: a detector needs the decoder 'detections', found {decoder.kind!r}.")
    windows = plan_windows(plan.shape, plan.tile, plan.halo, plan.divisor)

    def run(tiles: list[Tile]) -> list[Detected]:
        batch = np.zeros((plan.batch, len(scene.channels), *tiles[0].read.shape), np.float32)
        for i, tile in enumerate(tiles):
            read_scaled(scene, tile.read, scale, batch[i])
        outputs = session.run(batch)
        places = outputs["scores"].shape[1]
        for i, tile in enumerate(tiles):
            if outputs["count"][i] >= places:
                log.warning(
                    "The window at %s holds %d objects or more, all that %s can give: take a smaller --tile.",
                    tile.read.start,
                    places,
                    session.spec.name,
                )
        return [detected_in_tile(outputs, i, tile, decoder.min_score) for i, tile in enumerate(tiles)]

    found: list[Detected] = []
    batches = (windows[i : i + plan.batch] for i in range(0, len(windows), plan.batch))
    for parts in overlap(run, batches, session.concurrency, stop):
        found += parts
        progress(len(parts))
    progress(len(plan.tiles) - len(windows))  # the plan counts tiles as for score maps
    return drop_doubles(join_detected(found), decoder.max_iou, (plan.shape[-2], plan.shape[-1]))
