"""Everything that is decided before a picture is touched: tile, halo, threads, blocks, and what they cost in memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from cellengine.engine.options import InferOptions
from cellengine.errors import UsageError
from cellengine.geometry import Tile, plan_tiles, round_up
from cellengine.spec import ModelSpec


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
    def tiled_voxels(self) -> int:
        """Voxels that the network computes, halos included."""
        step = (t - 2 * h for t, h in zip(self.tile, self.halo, strict=True))
        return prod(ceil(n / s) for n, s in zip(self.shape, step, strict=True)) * prod(self.tile)


def plan_picture(shape: tuple[int, ...], spec: ModelSpec, options: InferOptions) -> Plan:
    """Choose the tiles for a picture of `shape`.

    A tile asked for is taken as it is. Otherwise each axis is cut into as few equal cores as fit the model's tile, so
    that no tile hangs far out of the picture: what is computed beyond the picture is at most one halo and one divisor.
    """
    halo = plan_halo(spec, options)
    if options.tile is not None:
        tile = _asked(options.tile, spec, halo)
    else:
        tile = tuple(_side(*axis) for axis in zip(shape, spec.tile, halo, spec.divisor, strict=True))
    return Plan(shape, tile, halo, spec.divisor, options.batch)


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
