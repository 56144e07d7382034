"""Which pictures show the same: copies, turned or mirrored copies, and neighbouring tiles of one field of view.

Pictures that share content must not be split between training and validation, or the scores come out too high.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Array = NDArray[Any]

SIDE = 16
"""a picture is compared as SIDE x SIDE means"""
BORDER = 64
"""and each of its four borders as so many means"""
SAME_PICTURE = 0.99
"""correlation of the means above which two pictures show the same"""
SEAM = 0.15
"""mean square difference of two borders over their variance below which they may lie side by side. On the 2018 Data
Science Bowl, whose fields of view are known, 0.15 joins 722 of 729 pairs of one field, and 64 pairs of different ones
out of 150,000; at 0.1 it is 692 and 23, at 0.2 722 and 89"""
FLAT = 1e-3
"""a spread of the means, as a share of their level, below which a picture or border looks like any other"""


@dataclass(frozen=True, slots=True)
class Look:
    """A picture reduced to what is compared."""

    shape: tuple[int, int]
    means: Array
    """(SIDE, SIDE) float32"""
    borders: Array
    """(4, BORDER) float32: top, bottom, left, right"""

    @classmethod
    def of(cls, image: Array) -> Self:
        """The look of a picture (Y, X) or (C, Y, X); of colours the mean counts."""
        grey = np.asarray(image if image.ndim == 2 else image.mean(axis=0), np.float32)
        lines = (grey[0], grey[-1], grey[:, 0], grey[:, -1])
        means = _means(_means(grey, SIDE, 0), SIDE, 1)
        return cls((grey.shape[0], grey.shape[1]), means, np.stack([_means(line, BORDER, 0) for line in lines]))

    def to_text(self) -> str:
        """As text for a journal, 4 KB."""
        values = np.concatenate([self.means.ravel(), self.borders.ravel()]).astype("<f4")
        return f"{self.shape[0]}x{self.shape[1]}:{values.tobytes().hex()}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The inverse of `to_text`."""
        size, _, digits = text.partition(":")
        height, width = (int(n) for n in size.split("x"))
        values = np.frombuffer(bytes.fromhex(digits), "<f4")
        return cls((height, width), values[: SIDE * SIDE].reshape(SIDE, SIDE), values[SIDE * SIDE :].reshape(4, BORDER))


@dataclass(frozen=True, slots=True)
class Groups:
    """Pictures that belong together."""

    group: tuple[int, ...]
    """for each picture the number of the first one of its group"""
    copies: tuple[tuple[int, int], ...]
    """pairs that show the same"""
    neighbours: tuple[tuple[int, int], ...]
    """pairs of tiles that lie side by side"""


def group_looks(looks: Sequence[Look], *, tiles: bool = True) -> Groups:
    """Group pictures that show the same, turned and mirrored copies included, and tiles that continue each other.

    `tiles`: whether to look for tiles. Two lie side by side when their borders agree and each fits the other best.
    O(n^2) in time and memory: 1,000 pictures take a second and 50 MB.
    """
    copies = _copies(looks)
    neighbours = _neighbours(looks) if tiles else []
    edges = np.array([*copies, *neighbours], np.int64).reshape(-1, 2)
    count = len(looks)
    matrix = coo_matrix((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, component = connected_components(matrix, directed=False)
    first: dict[int, int] = {}
    return Groups(tuple(first.setdefault(int(c), i) for i, c in enumerate(component)), tuple(copies), tuple(neighbours))


def _copies(looks: Sequence[Look]) -> list[tuple[int, int]]:
    usable = [i for i, look in enumerate(looks) if not _is_flat(look.means)]
    if len(usable) < 2:
        return []
    means = np.stack([looks[i].means for i in usable])
    plain = _standard(means.reshape(len(usable), -1))
    hit = np.zeros((len(usable), len(usable)), bool)
    for mirrored in (means, means[:, :, ::-1]):
        for turns in range(4):
            turned = np.rot90(mirrored, turns, axes=(1, 2)).reshape(len(usable), -1)
            hit |= plain @ _standard(turned).T >= SAME_PICTURE
    return [(usable[a], usable[b]) for a, b in np.argwhere(np.triu(hit | hit.T, 1)).tolist()]


def _neighbours(looks: Sequence[Look]) -> list[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for shape in {look.shape for look in looks}:
        same = [i for i, look in enumerate(looks) if look.shape == shape]
        borders = np.stack([looks[i].borders for i in same])
        for one, other in ((1, 0), (3, 2)):  # the bottom of one is continued by the top of another; right and left
            for a, b in _seams(borders[:, one], borders[:, other]):
                found.add((min(same[a], same[b]), max(same[a], same[b])))
    return sorted(found)


def _seams(ends: Array, starts: Array) -> list[tuple[int, int]]:
    """Pairs (a, b) where the border `ends[a]` fits `starts[b]` below SEAM, and neither fits another one better."""
    misfit = np.empty((len(ends), len(starts)), np.float32)
    spread = ends.var(axis=1)[:, None] + starts.var(axis=1)[None]
    for i, border in enumerate(ends):
        misfit[i] = ((border - starts) ** 2).mean(axis=1)
    misfit /= np.maximum(spread / 2, 1e-12)
    flat_ends, flat_starts = ([_is_flat(border) for border in side] for side in (ends, starts))
    misfit[flat_ends, :] = misfit[:, flat_starts] = np.inf
    np.fill_diagonal(misfit, np.inf)
    best_start, best_end = misfit.argmin(axis=1), misfit.argmin(axis=0)
    return [(a, int(b)) for a, b in enumerate(best_start) if best_end[b] == a and misfit[a, b] <= SEAM]


def _means(values: Array, count: int, axis: int) -> Array:
    """`values` in `count` runs along an axis, each replaced by its mean; short axes repeat values."""
    size = values.shape[axis]
    edges = np.arange(count + 1) * size // count
    runs = [values.take(np.arange(a, max(b, a + 1)), axis).mean(axis) for a, b in pairwise(edges.tolist())]
    return np.stack(runs, axis)


def _standard(rows: Array) -> Array:
    """Rows of mean 0 and length 1."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    result: Array = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return result


def _is_flat(values: Array) -> bool:
    return float(values.std()) <= FLAT * max(abs(float(values.mean())), 1.0)
