"""Which voxels touch which. 2D pictures are treated as volumes of one plane throughout the compiled code."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from cellengine.errors import UsageError


def check_connectivity(connectivity: int, ndim: int) -> int:
    """`connectivity` as scikit-image counts it: 1 = 4 or 6 neighbours, 2 = 8 or 18, 3 = 26. Raises UsageError."""
    if ndim not in (2, 3):
        raise UsageError(f"An array of {ndim} axes was given: these functions take 2 (y, x) or 3 (z, y, x).")
    if connectivity not in range(1, ndim + 1):
        raise UsageError(f"connectivity={connectivity} was given: with {ndim} axes it is one of 1 ... {ndim}.")
    return connectivity


def volume_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(z, y, x) of an array of 2 or 3 axes."""
    return (1, shape[0], shape[1]) if len(shape) == 2 else (shape[0], shape[1], shape[2])


def neighbour_steps(connectivity: int, ndim: int) -> NDArray[np.int64]:
    """Steps (z, y, x) to the neighbours, nearest first and in raster order among equals; shape (n, 3).

    The order is part of the result of a watershed on plateaus; it is the one of scikit-image.
    """
    check_connectivity(connectivity, ndim)
    steps = [
        step
        for step in product((-1, 0, 1) if ndim == 3 else (0,), (-1, 0, 1), (-1, 0, 1))
        if 0 < sum(map(abs, step)) <= connectivity
    ]
    return np.array(sorted(steps, key=lambda step: sum(map(abs, step))), np.int64)


def steps_within(connectivity: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """`neighbour_steps` for an array of `shape`, less those along z when there is one plane only."""
    steps = neighbour_steps(connectivity, len(shape))
    return steps[steps[:, 0] == 0] if volume_shape(shape)[0] == 1 else steps


def listed(steps: NDArray[np.int64]) -> tuple[tuple[int, int, int], ...]:
    """The steps as tuples: compiled code that takes them is made for their number, which is in the type."""
    return tuple((int(z), int(y), int(x)) for z, y, x in steps)


def flat_offsets(steps: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.uint64]:
    """The steps as offsets into a flat C array of `shape`; unsigned, adding wraps around to the right place."""
    return (steps @ np.array([shape[1] * shape[2], shape[2], 1], np.int64)).astype(np.uint64)
