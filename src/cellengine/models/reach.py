"""How far a chain of layers looks, along one axis, exactly: the worst over all positions of the pooling grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as far as positions go."""

    kind: Literal["conv", "pool", "repeat", "bilinear"]
    size: int
    """of a conv half its kernel; else the factor between the sides before and after"""

    def needs(self, low: int, high: int) -> tuple[int, int]:
        """The inputs (inclusive) that the outputs low ... high depend on."""
        if self.kind == "conv":
            return low - self.size, high + self.size
        if self.kind == "pool":
            return low * self.size, high * self.size + self.size - 1
        if self.kind == "repeat":
            return low // self.size, high // self.size
        # bilinear: output i lies at (i + 1/2) / size - 1/2 between two inputs
        return (2 * low + 1 - self.size) // (2 * self.size), -(-(2 * high + 1 - self.size) // (2 * self.size))


def receptive_field(layers: Sequence[Layer]) -> int:
    """Voxels on each side of an output voxel that can change it; `layers` from input to output."""
    period = prod(layer.size for layer in layers if layer.kind == "pool")
    return max(max(at - low, high - at) for at in range(period) for low, high in [_trace(layers, at)])


def _trace(layers: Sequence[Layer], at: int) -> tuple[int, int]:
    low = high = at
    for layer in reversed(layers):
        low, high = layer.needs(low, high)
    return low, high
