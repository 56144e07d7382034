"""From the scores of single pictures to those of a collection: pooled, or averaged over pictures.

The two answer different questions. Pooled scores weigh every object or voxel alike, so crowded pictures decide;
the mean over pictures weighs every picture alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import isnan, nan
from operator import add
from statistics import fmean
from typing import Any, Protocol, Self, TypeVar


class Scores(Protocol):
    """What every kind of score offers: entries by name, and a sum that is the score of both pictures together."""

    def row(self) -> dict[str, float]:
        """The scores by name, for one line of a table; NaN where one is not defined for this picture."""
        ...

    def __add__(self, other: Any, /) -> Self:
        """The scores of both pictures taken as one."""
        ...


S = TypeVar("S", bound=Scores)


def pool(pictures: Sequence[S]) -> S:
    """The scores of all pictures together, as if they were one. Raises ValueError without pictures."""
    if not pictures:
        raise ValueError("There are no scores to pool.")
    return reduce(add, pictures)


def mean_over_pictures(pictures: Sequence[Scores]) -> dict[str, float]:
    """The mean of every entry of `row` over the pictures for which it is defined, each counting the same.

    An entry that no picture defines is NaN. Raises ValueError without pictures.
    """
    if not pictures:
        raise ValueError("There are no scores to average.")
    rows = [picture.row() for picture in pictures]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _mean([row[name] for row in rows if name in row and not isnan(row[name])]) for name in names}


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else nan
