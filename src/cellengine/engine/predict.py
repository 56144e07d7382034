"""Tiles to scores: read, scale, run the network, keep the core. Results do not depend on how a picture is cut."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numba import njit

from cellengine.engine.flow import Stop, overlap
from cellengine.engine.frugal import run_within_memory
from cellengine.engine.plan import Plan
from cellengine.engine.scene import Scene
from cellengine.engine.session import Session
from cellengine.errors import InputError
from cellengine.geometry import Region, Tile
from cellengine.ops.normalize import Scale, normalize_into

Array = np.ndarray[Any, Any]

SCORE_STEPS = 65535
"""scores are kept as whole numbers 0..65535 for 0..1: half the memory of float32, exact to 1.5e-5, ready for buckets"""

Scores = dict[str, Array]
"""output name -> uint16 (channels, *spatial)"""


def predict(
    scene: Scene, session: Session, plan: Plan, scale: Scale, stop: Stop, progress: Callable[[int], None]
) -> Scores:
    """Scores of a whole picture. `progress` is told the number of tiles finished each time some are.

    Every call of the network gets a full batch (the last one is filled up with zeros), because results may differ in
    the last bits between batch sizes. Each worker thread reads, scales, runs and stores its own tiles: one computes
    while another reads. Memory: 2 bytes a voxel and output channel, and per worker one batch of input and output.
    """
    channels: dict[str, int] = {output.name: output.channels for output in session.spec.outputs}
    scores = {name: np.empty((count, *plan.shape), np.uint16) for name, count in channels.items()}

    def keep(core: Region, outputs: dict[str, Array]) -> None:
        for name, values in outputs.items():
            quantise(values, scores[name][(slice(None), *core.slices)])

    for done in predict_batches(tile_batches(plan), keep, scene, session, plan, scale, stop):
        progress(len(done))
    return scores


def predict_batches(
    batches: Iterable[list[Tile]],
    keep: Callable[[Region, dict[str, Array]], None],
    scene: Scene,
    session: Session,
    plan: Plan,
    scale: Scale,
    stop: Stop,
) -> Generator[list[Tile], None, None]:
    """As `predict`, for batches of tiles of the plan; each is given out, in order, when its cores have been kept.

    Every core goes to `keep(core, output name -> float32 (channels, *core.shape))`, from any thread.
    """
    own = threading.local()  # fresh memory for every batch would cost more in page faults than reading the tile

    def run(tiles: list[Tile]) -> list[Tile]:
        if not hasattr(own, "batch"):
            own.batch = np.zeros((plan.batch, len(scene.channels), *plan.tile), np.float32)
        for tile, outputs in zip(tiles, compute_batch(tiles, own.batch, scene, session, plan, scale), strict=True):
            keep(tile.core, outputs)
        return tiles

    return overlap(run, batches, session.concurrency, stop)


def compute_batch(
    tiles: Sequence[Tile], batch: Array, scene: Scene, session: Session, plan: Plan, scale: Scale
) -> list[dict[str, Array]]:
    """The network's answers to the cores of at most `plan.batch` tiles: output name -> float32 (channels, *core.shape).

    `batch` is memory to work in, float32 (plan.batch, channels, *plan.tile). Raises InputError for answers that are no
    numbers.
    """
    batch[len(tiles) :] = 0
    for i, tile in enumerate(tiles):
        read_scaled(scene, tile.read, scale, batch[i])
    outputs = run_within_memory(session, batch, plan.halo)
    check_numbers(outputs, tiles, scene, session)
    inside = tuple(-h for h in plan.halo)
    cores = ((slice(None), *tile.core.relative_to(tile.read.grow(inside))) for tile in tiles)
    return [{name: values[i][core] for name, values in outputs.items()} for i, core in enumerate(cores)]


def check_numbers(outputs: dict[str, Array], tiles: Sequence[Tile], scene: Scene, session: Session) -> None:
    """Refuse a picture that the network answers with NaN or infinity, which would silently become background.

    A sum tells, in a thousandth of the time that the network takes.
    """
    for name, values in outputs.items():
        for i, tile in enumerate(tiles):
            if not math.isfinite(float(values[i].sum())):
                raise InputError(
                    f"{scene.source.name}: found NaN or infinity in the {name} that {session.spec.name} gives for the "
                    f"tile at {tile.read.start}, expected numbers: look at the picture there, or take another "
                    f"--precision than {session.precision}."
                )


def tile_batches(plan: Plan) -> Iterator[list[Tile]]:
    """The tiles of a plan in raster order, as many at a time as the network gets in one call."""
    tiles = map(plan.tile_at, range(len(plan.grid)))
    while batch := list(islice(tiles, plan.batch)):
        yield batch


def read_scaled(scene: Scene, region: Region, scale: Scale, out: Array) -> None:
    """Fill `out`, float32 (C, *region.shape), with scaled intensities; outside the picture it is reflected.

    A channel that feeds the model several times is read, scaled and reflected once.
    """
    unique = tuple(dict.fromkeys(scene.channels))
    if len(unique) < len(scene.channels):
        first = [scene.channels.index(c) for c in unique]
        part = Scale(
            tuple(scale.offset[i] for i in first), tuple(scale.factor[i] for i in first), scale.low, scale.high
        )
        _read_reflected(scene, unique, region, part, out[: len(unique)])
        for i in reversed(range(len(scene.channels))):
            if (origin := unique.index(scene.channels[i])) != i:
                out[i] = out[origin]
        return
    _read_reflected(scene, scene.channels, region, scale, out)


def _read_reflected(scene: Scene, channels: tuple[int, ...], region: Region, scale: Scale, out: Array) -> None:
    inside = region.intersect(Region.whole(scene.shape))
    if inside == region:
        normalize_into(scene.read_channels(region, channels), scale, out)
        return
    places = [reflect(np.arange(a, b), n) for a, b, n in zip(region.start, region.stop, scene.shape, strict=True)]
    needed = Region(tuple(int(p.min()) for p in places), tuple(int(p.max()) + 1 for p in places))
    values = np.empty((len(channels), *needed.shape), np.float32)
    normalize_into(scene.read_channels(needed, channels), scale, values)
    for axis, (place, start) in enumerate(zip(places, needed.start, strict=True), 1):
        if (np.diff(place) != 1).any():
            values = np.take(values, place - start, axis)
    out[...] = values


def reflect(at: Array, length: int) -> Array:
    """Places in 0..length-1 that positions `at` outside a line of `length` mirror to (the edge is not repeated)."""
    if length == 1:
        return np.zeros_like(at)
    period = 2 * (length - 1)
    at = np.abs(at) % period
    mirrored: Array = np.minimum(at, period - at)
    return mirrored


def quantise(values: Array, out: Array) -> None:
    """Write 0..1 floats, (C, *spatial), as whole numbers 0..65535 into `out`, rounded, in one pass."""
    for plane in np.ndindex(values.shape[:-2]):
        _quantise_plane(values[plane], out[plane])


@njit(nogil=True, cache=True)
def _quantise_plane(values: Array, out: Array) -> None:
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            value = min(max(values[y, x], np.float32(0.0)), np.float32(1.0))
            out[y, x] = np.uint16(value * np.float32(SCORE_STEPS) + np.float32(0.5))
