"""A session that goes on when its device runs out of memory: by halves of the batch, then by halves of the tile.

Only what the runtime itself reports as exhausted memory counts (`OutOfMemory`); any other error is passed on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from cellengine.engine.session import Halo, OutOfMemory, Outputs, Session
from cellengine.errors import ResourceError
from cellengine.geometry import Region, Tile, round_up

Batch = NDArray[np.float32]
T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Known:
    """What is known of the memory of a session."""

    too_large: float = float("inf")
    """values of the smallest batch that did not fit: such and larger ones are halved without trying"""
    said: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


_SESSIONS: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()
"""kept as long as the session, so that the next picture does not run into the same wall"""


def within_memory(session: Session, shape: tuple[int, ...], whole: Callable[[], T], parts: Callable[[], T] | None) -> T:
    """`whole()`, which runs `session` on a batch of `shape`, or `parts()`, the same in pieces, where that does not fit.

    A size that did not fit once is not tried again, and the first time it is said in the log. Raises ResourceError when
    the whole does not fit and has no parts.
    """
    known = _SESSIONS.setdefault(session, _Known())
    if parts is None or prod(shape) < known.too_large:
        try:
            return whole()
        except OutOfMemory as error:
            if parts is None:
                raise ResourceError(
                    f"Not even a batch of {shape}, the smallest that keeps its halo, fits into the memory of "
                    f"{session.device}: free some of it, or take another --device."
                ) from error
            _remember(known, session, shape)
    return parts()


def run_within_memory(session: Session, batch: Batch, halo: Halo | None) -> Outputs:
    """As `session.run(batch, halo)`, in pieces where the whole does not fit into the memory of the device.

    `batch` is (N, C, *tile). First the pictures of the batch are halved, then, where there is a halo, the tile along
    its longest core. A piece of a tile is read with `halo` around it, so that every voxel of the core gets the answer
    it would have had in the whole tile, up to the tolerance of that halo: with the receptive field the same arithmetic.

    Raises ResourceError when a piece of one divisor does not fit either.
    """
    pieces = () if halo is None else _pieces(batch, halo, session.spec.divisor)

    def parts() -> Outputs:
        if halo is None or len(batch) > 1:
            return _in_two_batches(session, batch, halo)
        return _in_two_tiles(session, batch, halo, pieces)

    divisible = len(batch) > 1 or len(pieces) > 0
    return within_memory(session, batch.shape, lambda: session.run(batch, halo), parts if divisible else None)


def halve(tile: Tile, halo: tuple[int, ...], divisor: tuple[int, ...]) -> tuple[Tile, ...]:
    """Two tiles whose cores part that of `tile`, cut where it is longest; none when nothing smaller keeps its halo.

    Halos and what `tile` reads are multiples of the divisor, and so is what the parts read: about equally much.
    """
    read, core = tile.read, tile.core
    for axis in sorted(range(len(halo)), key=lambda a: -core.shape[a]):
        begin, end, unit = read.start[axis], read.stop[axis], divisor[axis]
        least, most = core.start[axis] + 1, core.stop[axis] - 1
        middle = begin + min(max((end - begin) // 2 // unit * unit, round_up(least - begin, unit)), most - begin)
        middle -= (middle - begin) % unit
        low, high = middle - halo[axis], middle + halo[axis]
        if least <= middle <= most and begin < low and high < end:
            first = Tile(_with_stop(read, axis, high), _with_stop(core, axis, middle))
            return first, Tile(_with_start(read, axis, low), _with_start(core, axis, middle))
    return ()


def _with_start(region: Region, axis: int, start: int) -> Region:
    return Region((*region.start[:axis], start, *region.start[axis + 1 :]), region.stop)


def _with_stop(region: Region, axis: int, stop: int) -> Region:
    return Region(region.start, (*region.stop[:axis], stop, *region.stop[axis + 1 :]))


def _pieces(batch: Batch, halo: Halo, divisor: tuple[int, ...]) -> tuple[Tile, ...]:
    """The tile of a batch in two."""
    whole = Region.whole(batch.shape[2:])
    return halve(Tile(whole, _inside(whole, halo)), halo, divisor)


def _inside(region: Region, halo: Halo) -> Region:
    return region.grow(tuple(-h for h in halo))


def _remember(known: _Known, session: Session, shape: tuple[int, ...]) -> None:
    with known.lock:
        known.too_large = min(known.too_large, prod(shape))
        said, known.said = known.said, True
    if not said:
        log.warning(
            "A batch of %s does not fit into the memory of %s: going on with smaller pieces, which takes longer "
            "(a smaller --batch or --tile avoids it).",
            shape,
            session.device,
        )


def _in_two_batches(session: Session, batch: Batch, halo: Halo | None) -> Outputs:
    half = len(batch) // 2
    first = run_within_memory(session, batch[:half], halo)
    second = run_within_memory(session, batch[half:], halo)
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def _in_two_tiles(session: Session, batch: Batch, halo: Halo, pieces: tuple[Tile, ...]) -> Outputs:
    found: Outputs = {}
    whole = _inside(Region.whole(batch.shape[2:]), halo)
    for piece in pieces:
        cut = np.ascontiguousarray(batch[(slice(None), slice(None), *piece.read.slices)])
        for name, values in run_within_memory(session, cut, halo).items():
            if name not in found:
                found[name] = np.empty((*values.shape[:2], *whole.shape), np.float32)
            core = values[(slice(None), slice(None), *piece.core.relative_to(_inside(piece.read, halo)))]
            found[name][(slice(None), slice(None), *piece.core.relative_to(whole))] = core
    return found
