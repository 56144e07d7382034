"""Random numbers of one sample, which depend on the seed and the sample's number alone."""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np

BLOCK, NUMBERS = 256, 64
"""samples whose first numbers are drawn together, and how many those are"""


class Chance:
    """What is drawn for sample `number` of the stream `seed`.

    A numpy generator of its own takes as long to make as a small crop to cut out, so single numbers come from a table
    for many samples; the generator is there for arrays.
    """

    def __init__(self, seed: int, number: int) -> None:
        self.seed, self.number = seed, number
        self._left = iter(_table(seed, number // BLOCK)[number % BLOCK])

    def random(self) -> float:
        """A number from 0 to below 1."""
        drawn = next(self._left, None)
        return float(self.generator.random()) if drawn is None else drawn

    def uniform(self, low: float, high: float) -> float:
        """A number between `low` and `high`."""
        return low + (high - low) * self.random()

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to below `high`."""
        return low + int((high - low) * self.random())

    @cached_property
    def generator(self) -> np.random.Generator:
        """For arrays and permutations; another stream than the single numbers."""
        return np.random.default_rng((self.seed, self.number))


@lru_cache(maxsize=8)
def _table(seed: int, block: int) -> list[list[float]]:
    table: list[list[float]] = np.random.default_rng((seed, block, NUMBERS)).random((BLOCK, NUMBERS)).tolist()
    return table
