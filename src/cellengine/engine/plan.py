"""Everything that is decided before a picture is touched: tile, halo, threads, blocks, and what they cost in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import numpy as np

from cellengine.engine.backends.cuda import CudaDevice
from cellengine.engine.backends.hardware import memory_limit
from cellengine.engine.options import InferOptions
from cellengine.engine.session import Session, batches_on_a_device
from cellengine.errors import UsageError
from cellengine.geometry import Cells, Region, Tile, plan_tiles, round_up
from cellengine.spec import ModelSpec

SHARE_OF_MEMORY = 0.8
"""share of what the system allows this process that a run may plan with"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one picture is cut. Two pictures of one shape get the same plan, so a resumed run computes the same bits."""

    shape: tuple[int, ...]
    """spatial shape of the picture at the network's voxel size"""
    tile: tuple[int, ...]
    halo: tuple[int, ...]
    divisor: tuple[int, ...]
    batch: int

    @property
    def tiles(self) -> list[Tile]:
        """The tiles in raster order."""
        return list(plan_tiles(self.shape, self.tile, self.halo, self.divisor))

    @property
    def grid(self) -> Cells:
        """The cores of the tiles; a cell has the number of its tile."""
        return Cells(self.shape, tuple(t - 2 * h for t, h in zip(self.tile, self.halo, strict=True)))

    def tile_at(self, number: int) -> Tile:
        """The tile that is `tiles[number]`."""
        core = self.grid.cell(number)
        start = tuple(a - h for a, h in zip(core.start, self.halo, strict=True))
        return Tile(Region(start, tuple(a + t for a, t in zip(start, self.tile, strict=True))), core)

    @property
    def frozen(self) -> dict[str, Any]:
        """What a checkpoint keeps of a plan: plain data."""
        return {"tile": list(self.tile), "halo": list(self.halo), "batch": self.batch}

    def thawed(self, frozen: Mapping[str, Any]) -> Plan:
        """This plan, cut as the one whose `frozen` is given."""
        return replace(self, tile=tuple(frozen["tile"]), halo=tuple(frozen["halo"]), batch=int(frozen["batch"]))

    @property
    def tiled_voxels(self) -> int:
        """Voxels that the network computes, halos included."""
        return len(self.grid) * prod(self.tile)


ACTIVATIONS = {("openvino", "bf16"): 0.3, ("openvino", "fp32"): 0.5, ("openvino", "int8"): 0.3}
"""share of the spec's activation bytes that a backend holds, as measured; others hold 1.3 of them"""
TILE_SHARE = 1 / 8
"""share of a run's memory that the network may take; the rest is for pictures, scores and labels"""

LARGEST_VOLUME_TILE = 1 << 24
"""voxels: beyond it libraries that count the values of a layer in 32 bits fail"""


def plan_picture(shape: tuple[int, ...], session: Session, options: InferOptions) -> Plan:
    """Choose the tiles for a picture of `shape`.

    A tile asked for is taken as it is. Otherwise each axis is cut into as few equal cores as the model's tile and the
    memory allow: large tiles waste least on halos, and equal ones hang least out of the picture. In a volume halos are
    most of a small tile, so there only the memory limits it.
    """
    spec, halo = session.spec, plan_halo(session.spec, options)
    if options.tile is not None:
        tile = _asked(options.tile, spec, halo)
    elif len(shape) == 3 and session.backend != "tensorrt":  # its engines are built for tiles up to the model's
        tile = _volume_tile(shape, session, halo, options)
    else:
        largest = _largest_tile(session, halo, options)
        tile = tuple(_side(*axis) for axis in zip(shape, largest, halo, spec.divisor, strict=True))
    return Plan(shape, tile, halo, spec.divisor, options.batch)


def check_tile(spec: ModelSpec, options: InferOptions) -> None:
    """Refuse a tile that no picture can have, before any work."""
    if options.tile is not None:
        _asked(options.tile, spec, plan_halo(spec, options))


def ram_limit(options: InferOptions) -> int:
    """Bytes of memory that a run may plan with."""
    return options.max_ram if options.max_ram is not None else int(SHARE_OF_MEMORY * memory_limit())


def network_bytes(plan: Plan, session: Session) -> int:
    """Memory that the network takes while it computes a batch."""
    return int(_bytes_per_voxel(session) * prod(plan.tile) * plan.batch)


def _bytes_per_voxel(session: Session) -> float:
    return session.spec.activation_bytes * ACTIVATIONS.get((session.backend, session.precision), 1.3)


def _largest_tile(session: Session, halo: tuple[int, ...], options: InferOptions) -> tuple[int, ...]:
    """The model's tile, shrunk evenly until its activations fit their share of the memory."""
    spec = session.spec
    fitting = _network_share(session, options) / (_bytes_per_voxel(session) * options.batch)
    shrink = min(1.0, (fitting / prod(spec.tile)) ** (1 / len(spec.tile)))
    smallest = (2 * h + d for h, d in zip(halo, spec.divisor, strict=True))
    return tuple(max(int(t * shrink), s) for t, s in zip(spec.tile, smallest, strict=True))


def _volume_tile(
    shape: tuple[int, ...], session: Session, halo: tuple[int, ...], options: InferOptions
) -> tuple[int, ...]:
    """The tile with which the network computes the fewest voxels in all, of those that fit into its memory."""
    spec = session.spec
    arrays = 4 * session.concurrency * (len(spec.channels) + 2 * sum(output.channels for output in spec.outputs))
    fitting = _network_share(session, options) / ((_bytes_per_voxel(session) + arrays) * options.batch)
    sides = [np.array(_sides(*axis), np.float64) for axis in zip(shape, halo, spec.divisor, strict=True)]
    computed = [s * np.ceil(n / (s - 2 * h)) for n, h, s in zip(shape, halo, sides, strict=True)]
    size, total = (a[:, None, None] * b[:, None] * c for a, b, c in (sides, computed))
    allowed = size <= min(fitting, LARGEST_VOLUME_TILE)
    best = np.argmin(np.where(allowed, total, np.inf)) if allowed.any() else np.argmin(size)
    return tuple(int(s[i]) for s, i in zip(sides, np.unravel_index(best, size.shape), strict=True))


def _sides(length: int, halo: int, divisor: int) -> list[int]:
    """Sides of tiles that cut an axis into 1, 2, 3, ... equal cores (of many, every tenth more), down to the least."""
    count, most = 1, ceil(length / divisor)
    counts = []
    while count < most:
        counts.append(count)
        count = max(count + 1, count * 11 // 10)
    return [_side(length, ceil(length / n) + 2 * halo, halo, divisor) for n in (*counts, most)]


def _network_share(session: Session, options: InferOptions) -> float:
    """Bytes that one batch may take: of the machine's memory, or of the GPU's, where several are in flight."""
    if not session.device.startswith("cuda"):
        return TILE_SHARE * ram_limit(options)
    devices = [int(device.partition(":")[2] or 0) for device in session.device.split(",")]
    total = min(CudaDevice(number).memory()[1] for number in devices)
    return SHARE_OF_MEMORY * min(total, options.max_vram or total) / batches_on_a_device(session)


def plan_halo(spec: ModelSpec, options: InferOptions) -> tuple[int, ...]:
    """Halo per axis in px, rounded up to the divisor."""
    if options.halo == "auto":
        halo = spec.halo
    elif options.halo == "exact":
        halo = spec.receptive_field
    else:
        halo = (options.halo,) * len(spec.axes)
    return tuple(round_up(h, d) for h, d in zip(halo, spec.divisor, strict=True))


def _side(length: int, tile: int, halo: int, divisor: int) -> int:
    largest = max(tile - 2 * halo, divisor)
    count = ceil(length / largest)
    return round_up(ceil(length / count), divisor) + 2 * halo


def _asked(tile: tuple[int, ...], spec: ModelSpec, halo: tuple[int, ...]) -> tuple[int, ...]:
    if len(tile) == 1:
        tile = tile * len(spec.axes)
    if len(tile) != len(spec.axes):
        raise UsageError(f"--tile has {len(tile)} entries, the model {spec.name} works in {spec.axes}.")
    smallest = tuple(2 * h + d for h, d in zip(halo, spec.divisor, strict=True))
    if any(t % d or t < s for t, d, s in zip(tile, spec.divisor, smallest, strict=True)):
        raise UsageError(
            f"--tile {','.join(map(str, tile))}: expected multiples of {','.join(map(str, spec.divisor))}, "
            f"at least {','.join(map(str, smallest))} (two halos and a core)."
        )
    return tile
