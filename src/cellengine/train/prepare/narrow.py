"""The smallest type that holds an image without loss, found block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_UNSIGNED = (np.uint8, np.uint16, np.uint32, np.uint64)
_SIGNED = (np.int8, np.int16, np.int32, np.int64)


class Range:
    """What the values of an image are, seen block by block: lowest, highest, whole or not, exact in float32 or not."""

    def __init__(self) -> None:
        self.lowest, self.highest = np.inf, -np.inf
        self.whole = self.exact_in_float32 = True
        self.not_finite = 0

    def add(self, block: NDArray[Any]) -> None:
        """See one block more. NaN and infinity are counted and otherwise left out."""
        if block.dtype.kind == "f":
            finite = np.isfinite(block)
            self.not_finite += int(finite.size - finite.sum())
            block = block[finite]
            self.whole = self.whole and bool((block == np.rint(block)).all())
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity there, which differs
                self.exact_in_float32 = self.exact_in_float32 and bool((block == block.astype(np.float32)).all())
        if block.size:
            self.lowest, self.highest = min(self.lowest, block.min().item()), max(self.highest, block.max().item())

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type for whole numbers, signed where some are negative, else float32 or float64.

        Whole numbers in a float type that no integer type holds stay what they are.
        """
        if self.whole and self.lowest <= self.highest:
            for kind in _UNSIGNED if self.lowest >= 0 else _SIGNED:
                limits = np.iinfo(kind)
                if limits.min <= self.lowest and self.highest <= limits.max:
                    return np.dtype(kind)
        return np.dtype(np.float32 if self.exact_in_float32 else np.float64)
