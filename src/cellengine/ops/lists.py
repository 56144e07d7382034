"""Lists that grow inside compiled code.

Copied entry by entry: assigning one array to a slice of another makes numba compile a check of shapes with its error
message, about two seconds of processor time for the first of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True, cache=True, error_model="numpy")
def lengthened(values: NDArray[Any], count: int, size: int) -> NDArray[Any]:
    """A new array of `size` that begins with the first `count` of `values` (1D)."""
    longer = np.empty(size, values.dtype)
    for i in range(count):
        longer[i] = values[i]
    return longer
