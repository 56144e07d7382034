"""How much surrounding a network really needs: the measured halo, far smaller than its receptive field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np

from cellengine.engine.session import Session

Array = np.ndarray[Any, Any]

TOLERANCE = 2.5e-4
"""largest change of an output (range 0..1) that is allowed while calibrating; `--halo auto` promises 1e-3"""


def measure_halo(
    session: Session, pictures: Iterable[Array], receptive_field: Sequence[int], core_px: int | None = None
) -> tuple[tuple[int, ...], float]:
    """The smallest halo, in px per axis and multiples of the divisor, and the largest change it left.

    `pictures` are scaled, float32 (C, *spatial). From each the network sees a core with the whole receptive field
    around it, then with less and less; the outputs in the core are compared. One halo per axis, found together.
    The core has 64 px a side, in volumes 32: a window of a volume has millions of voxels as it is.
    """
    if core_px is None:
        core_px = 64 if len(receptive_field) == 2 else 32
    divisor = session.spec.divisor
    full = [-(-r // d) * d for r, d in zip(receptive_field, divisor, strict=True)]
    core = [-(-core_px // d) * d for d in divisor]
    worst = dict.fromkeys(range(1, max(f // d for f, d in zip(full, divisor, strict=True))), 0.0)
    halos = {s: [min(s * d, f) for d, f in zip(divisor, full, strict=True)] for s in worst}
    for window in _windows(pictures, core, full):
        exact = _core(session, window, full, core)
        for share, halo in halos.items():
            cut = tuple(slice(f - h, f + c + h) for f, h, c in zip(full, halo, core, strict=True))
            found = _core(session, window[(slice(None), *cut)], halo, core)
            change = max(float(np.abs(a - b).max()) for a, b in zip(exact, found, strict=True))
            worst[share] = max(worst[share], change)
    for share, change in worst.items():
        if all(worst[s] <= TOLERANCE for s in worst if s >= share):
            return tuple(halos[share]), change
    return tuple(full), 0.0


def _windows(pictures: Iterable[Array], core: Sequence[int], full: Sequence[int]) -> Iterable[Array]:
    """Windows of core plus receptive field, reflected where they leave it: the corners of a picture; of a volume,
    whose windows cost a hundred times as much, the first corner and the middle, where its objects are."""
    for picture in pictures:
        shape = picture.shape[1:]
        last = [max(0, n - c) for n, c in zip(shape, core, strict=True)]
        padded = np.pad(
            picture,
            [(0, 0), *((f, f + max(0, c - n)) for f, c, n in zip(full, core, shape, strict=True))],
            mode="reflect",
        )
        corners = [*product(*(sorted({0, n}) for n in last))]
        for index in corners if len(shape) == 2 else sorted({corners[0], tuple(n // 2 for n in last)}):
            cut = tuple(slice(i, i + c + 2 * f) for i, c, f in zip(index, core, full, strict=True))
            yield np.ascontiguousarray(padded[(slice(None), *cut)])


def _core(session: Session, window: Array, halo: Sequence[int], core: Sequence[int]) -> list[Array]:
    outputs = session.run(np.ascontiguousarray(window[None], dtype=np.float32))
    cut = tuple(slice(h, h + c) for h, c in zip(halo, core, strict=True))
    cores: list[Array] = [values[0][(slice(None), *cut)] for values in outputs.values()]
    return cores
