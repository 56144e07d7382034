"""Random numbers of one sample, which depend on the seed and the sample's number alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

BLOCK, NUMBERS = 256, 64
"""samples whose first numbers are drawn together, and how many those are"""


class Chance:
    """What is drawn for sample `number` of the stream `seed`.

    A numpy generator takes as long to make as a small crop to cut out, so single numbers come from a table for many
    samples. Arrays are drawn by torch, whose generators are made and draw several times faster.
    """

    def __init__(self, seed: int, number: int) -> None:
        self.seed, self.number = seed, number
        self._left = iter(_table(seed, number // BLOCK)[number % BLOCK])
        self._generator: torch.Generator | None = None

    def random(self) -> float:
        """A number from 0 to below 1."""
        drawn = next(self._left, None)
        return float(torch.rand((), dtype=torch.float64, generator=self._arrays())) if drawn is None else drawn

    def uniform(self, low: float, high: float) -> float:
        """A number between `low` and `high`."""
        return low + (high - low) * self.random()

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to below `high`."""
        return low + int((high - low) * self.random())

    def normal(self, shape: Sequence[int]) -> np.ndarray[Any, Any]:
        """Numbers of mean 0 and standard deviation 1, float32."""
        drawn: np.ndarray[Any, Any] = torch.randn(tuple(shape), generator=self._arrays()).numpy()
        return drawn

    def permutation(self, count: int) -> list[int]:
        """0 ... `count` - 1 in another order."""
        order: list[int] = torch.randperm(count, generator=self._arrays()).tolist()
        return order

    def _arrays(self) -> torch.Generator:
        if self._generator is None:
            # of 32 bits, and apart from the stream of a training step of the same number
            self._generator = torch.Generator().manual_seed((2**31 + self.seed * 1_000_003 + self.number) % 2**32)
        return self._generator


@lru_cache(maxsize=8)
def _table(seed: int, block: int) -> list[list[float]]:
    table: list[list[float]] = np.random.default_rng((seed, block, NUMBERS)).random((BLOCK, NUMBERS)).tolist()
    return table
