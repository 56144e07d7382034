"""One mask a nucleus into one label image. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Resolved:
    """A label image made of masks, and what was wrong with them; masks are named by their place in the list."""

    labels: NDArray[np.uint32]
    """numbered 1 ... n by centroid, from top to bottom and left to right"""
    overlap_px: int
    """pixels that more than one mask claims"""
    overlapping: tuple[tuple[int, int], ...]
    """pairs of masks that share pixels; where three do, each with the next smaller one"""
    empty: tuple[int, ...]
    """masks without a pixel"""
    hidden: tuple[int, ...]
    """masks that lie under smaller ones altogether, for example a mask that comes twice"""
    in_pieces: tuple[int, ...]
    """masks of several pieces; they stay one nucleus"""


def resolve_masks(masks: Sequence[NDArray[Any]], shape: tuple[int, int]) -> Resolved:
    """Lay masks (Y, X; not 0 is inside) into one label image. Where two overlap, the smaller nucleus keeps the pixels.

    Of two equally large ones the later keeps them. O(pixels x masks); memory: 4 bytes a pixel and the pixels of the
    masks.
    """
    pixels = [np.flatnonzero(mask) for mask in masks]
    owner = np.full(shape[0] * shape[1], -1, np.int64)
    claims = np.zeros(owner.size, np.uint16)
    pairs: set[tuple[int, int]] = set()
    for i in sorted(range(len(masks)), key=lambda i: -pixels[i].size):
        below = np.unique(owner[pixels[i]])
        pairs.update((min(i, int(j)), max(i, int(j))) for j in below if j >= 0)
        owner[pixels[i]] = i
        claims[pixels[i]] += 1
    kept = [i for i in range(len(masks)) if pixels[i].size and (owner[pixels[i]] == i).any()]
    centres = {i: np.mean(np.divmod(pixels[i][owner[pixels[i]] == i], shape[1]), axis=1).tolist() for i in kept}
    number = np.zeros(len(masks) + 1, np.uint32)  # the last one is background, which owner calls -1
    for count, i in enumerate(sorted(kept, key=lambda i: centres[i]), 1):
        number[i] = count
    return Resolved(
        labels=number[owner].reshape(shape),
        overlap_px=int((claims > 1).sum()),
        overlapping=tuple(sorted(pairs)),
        empty=tuple(i for i in range(len(masks)) if not pixels[i].size),
        hidden=tuple(i for i in range(len(masks)) if pixels[i].size and i not in centres),
        in_pieces=tuple(i for i in kept if _pieces(masks[i]) > 1),
    )


def _pieces(mask: NDArray[Any]) -> int:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.ascontiguousarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] != 0, np.uint8)
    _, count = cc3d.connected_components(box, connectivity=8, return_N=True)
    return int(count)
