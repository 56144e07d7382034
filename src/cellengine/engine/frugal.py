"""A session that goes on when its device runs out of memory: by halves of the batch, then by halves of the tile.

Only what the runtime itself reports as exhausted memory counts (`OutOfMemory`); any other error is passed on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from cellengine.engine.session import OutOfMemory, Outputs, Session
from cellengine.errors import ResourceError
from cellengine.spec import ModelSpec

Batch = NDArray[np.float32]

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


def run_within_memory(session: Session, batch: Batch, halo: tuple[int, ...]) -> Outputs:
    """As `session.run(batch)`, in pieces where the whole does not fit into the memory of the device.

    `batch` is (N, C, *tile). First the pictures of the batch are halved, then the tile along its longest core. A piece
    of a tile is read with `halo` around it, so that every voxel at least `halo` from the tile's border gets the
    answer it would have had in the whole tile, up to the tolerance of that halo: identical arithmetic with the
    receptive field. Voxels closer to the border are undefined where the tile was cut: they are nobody's core.

    The first time, it is said once in the log. Raises ResourceError when a piece of one divisor does not fit either.
    """
    known = _SESSIONS.setdefault(session, _Known())
    smallest = not _can_be_halved(batch, halo, session.spec)
    if smallest or batch.size < known.too_large:
        try:
            return session.run(batch)
        except OutOfMemory as error:
            if smallest:
                raise ResourceError(
                    f"Not even a batch of {batch.shape}, the smallest with a halo of {halo}, fits into the memory of "
                    f"{session.device}: free some of it, or take another --device."
                ) from error
            _remember(known, session, batch)
    if len(batch) > 1:
        return _in_two_batches(session, batch, halo)
    return _in_two_tiles(session, batch, halo)


def _can_be_halved(batch: Batch, halo: tuple[int, ...], spec: ModelSpec) -> bool:
    """Several pictures can be parted; so can one, when the network answers voxel by voxel."""
    maps = spec.task in ("instances", "semantic", "boundary")
    return len(batch) > 1 or (maps and any(n >= 2 * d for n, d in zip(_core(batch, halo), spec.divisor, strict=True)))


def _core(batch: Batch, halo: tuple[int, ...]) -> list[int]:
    return [n - 2 * h for n, h in zip(batch.shape[2:], halo, strict=True)]


def _remember(known: _Known, session: Session, batch: Batch) -> None:
    with known.lock:
        known.too_large = min(known.too_large, batch.size)
        said, known.said = known.said, True
    if not said:
        log.warning(
            "A batch of %s does not fit into the memory of %s: going on with smaller pieces, which takes longer "
            "(a smaller --batch or --tile avoids it).",
            batch.shape,
            session.device,
        )


def _in_two_batches(session: Session, batch: Batch, halo: tuple[int, ...]) -> Outputs:
    half = len(batch) // 2
    first = run_within_memory(session, batch[:half], halo)
    second = run_within_memory(session, batch[half:], halo)
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def _in_two_tiles(session: Session, batch: Batch, halo: tuple[int, ...]) -> Outputs:
    found: Outputs = {}
    for piece, core in _halves(batch, halo, session.spec.divisor):
        answers = run_within_memory(session, np.ascontiguousarray(batch[(slice(None), slice(None), *piece)]), halo)
        kept = tuple(slice(c.start - p.start, c.stop - p.start) for c, p in zip(core, piece, strict=True))
        for name, values in answers.items():
            if name not in found:
                found[name] = np.zeros((*values.shape[:2], *batch.shape[2:]), np.float32)
            found[name][(slice(None), slice(None), *core)] = values[(slice(None), slice(None), *kept)]
    return found


def _halves(
    batch: Batch, halo: tuple[int, ...], divisor: tuple[int, ...]
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Two pieces of the tile, as what is read and what is kept of it; cut where the core is longest."""
    core = _core(batch, halo)
    axis = max((a for a, d in enumerate(divisor) if core[a] >= 2 * d), key=lambda a: core[a])
    middle = halo[axis] + max(1, core[axis] // 2 // divisor[axis]) * divisor[axis]
    for begin, end in ((halo[axis], middle), (middle, halo[axis] + core[axis])):
        read = [slice(0, n) for n in batch.shape[2:]]
        kept = [slice(h, h + c) for h, c in zip(halo, core, strict=True)]
        read[axis] = slice(begin - halo[axis], end + halo[axis])
        kept[axis] = slice(begin, end)
        yield tuple(read), tuple(kept)
