"""Clicks of many users on the cells of a picture, and the cells that they agree on. Numbers only; no pictures."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cellengine.errors import InputError

STATES = {"alive": 1.0, "dead": 0.0, "not_sure_alive": 0.5}
"""what a user may say of a cell, and what it counts"""


@dataclass(frozen=True, slots=True)
class Clicks:
    """All clicks on one picture."""

    places: NDArray[np.float64]
    """(n, 2): y, x in pixels"""
    users: NDArray[np.int64]
    """(n,) numbers from 0"""
    states: NDArray[np.float64]
    """(n,) values of STATES"""
    user_count: int
    """users who looked at the picture, those who clicked on nothing too"""


@dataclass(frozen=True, slots=True)
class Cell:
    """What several users mean by their clicks."""

    y: float
    x: float
    """mean of the clicks"""
    state: float
    """mean state: 1 alive, 0 dead"""
    users: int
    """how many clicked"""
    support: float
    """that as a share of the users who looked"""
    agreement: float
    """share of the clicks with the commonest state"""
    spread_px: float
    """root of the mean squared distance of the clicks from their mean"""


def find_cells(clicks: Clicks, radius_px: float) -> list[Cell]:
    """The cells that clicks mean, from top to bottom; see `cluster`."""
    cells = []
    for members in cluster(clicks.places, clicks.users, radius_px):
        places, states = clicks.places[members], clicks.states[members]
        centre = places.mean(axis=0)
        _, counts = np.unique(states, return_counts=True)
        cells.append(
            Cell(
                y=float(centre[0]),
                x=float(centre[1]),
                state=float(states.mean()),
                users=len(members),
                support=len(members) / clicks.user_count,
                agreement=float(counts.max() / len(members)),
                spread_px=float(np.sqrt(((places - centre) ** 2).sum(axis=1).mean())),
            )
        )
    return sorted(cells, key=lambda cell: (cell.y, cell.x))


def cluster(places: NDArray[np.float64], users: NDArray[np.int64], radius_px: float) -> list[list[int]]:
    """Sets of clicks that mean one cell: at most one click of each user, merged as long as centres are near.

    The two clusters whose centres (means of their clicks) are nearest are merged, if they are less than `radius_px`
    apart and share no user; then the next, until none are left. Of equally near ones the earlier come first; merged
    clusters count as later than all before. O(n^2 log n) for n clicks.
    """
    count = len(places)
    sums = {i: places[i].astype(float) for i in range(count)}
    members = {i: [i] for i in range(count)}
    by = {i: {int(users[i])} for i in range(count)}
    pairs = cKDTree(places).query_pairs(radius_px) if count > 1 else set()
    queue = [(float(np.linalg.norm(places[a] - places[b])), a, b) for a, b in pairs]
    heapq.heapify(queue)
    for new in range(count, 2 * count):
        pair = _next(queue, by, radius_px)
        if pair is None:
            break
        a, b = pair
        sums[new] = sums.pop(a) + sums.pop(b)
        members[new] = sorted(members.pop(a) + members.pop(b))
        by[new] = by.pop(a) | by.pop(b)
        centre = sums[new] / len(members[new])
        for other, total in sums.items():
            distance = float(np.linalg.norm(centre - total / len(members[other])))
            if other != new and distance < radius_px:
                heapq.heappush(queue, (distance, other, new))
    return [members[i] for i in sorted(members, key=lambda i: members[i])]


def _next(queue: list[tuple[float, int, int]], by: dict[int, set[int]], radius_px: float) -> tuple[int, int] | None:
    """The nearest pair that may be merged; clusters only grow, so a pair with a common user never can."""
    while queue:
        distance, a, b = heapq.heappop(queue)
        if distance < radius_px and a in by and b in by and not by[a] & by[b]:
            return a, b
    return None


def estimate_radius(pictures: Sequence[Clicks]) -> float:
    """The radius that best tells clicks of several users on one cell from clicks of one user on several cells, in px.

    For every click the nearest one of another user (mostly the same cell) and of the same user (another cell) are
    measured; the radius is where the fewest of the first are beyond and of the second within, each as a share. Raises
    InputError when no picture has both kinds.
    """
    between: list[float] = []
    within: list[float] = []
    for clicks in pictures:
        apart = np.linalg.norm(clicks.places[:, None] - clicks.places[None], axis=2)
        np.fill_diagonal(apart, np.inf)
        same = clicks.users[:, None] == clicks.users[None]
        for nearest, kind in ((between, ~same), (within, same)):
            least = np.where(kind, apart, np.inf).min(axis=1, initial=np.inf)
            nearest.extend(least[np.isfinite(least)].tolist())
    if not between or not within:
        raise InputError(
            "The radius cannot be estimated: no picture has clicks of two users and two clicks of one; give --radius."
        )
    first, second = np.sort(between), np.sort(within)
    candidates = np.unique([*between, *within])
    beyond = 1 - np.searchsorted(first, candidates, side="right") / len(first)
    inside = np.searchsorted(second, candidates, side="right") / len(second)
    best = int((beyond + inside).argmin())
    # between this distance and the next nothing changes: the middle is the safest
    following = candidates[min(best + 1, len(candidates) - 1)]
    return float((candidates[best] + following) / 2)


def fleiss_kappa(cells: Sequence[Sequence[float]]) -> float | None:
    """How far users agree on states beyond chance: 1 fully, 0 as by chance. States of each cell, one a user.

    Cells of one user say nothing. None when no cell has two, or all say the same of all cells. The number of users may
    vary. J. L. Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76, 1971.
    """
    counts = np.array([[list(cell).count(state) for state in STATES.values()] for cell in cells if len(cell) > 1])
    if not len(counts):
        return None
    users = counts.sum(axis=1)
    observed = (((counts**2).sum(axis=1) - users) / (users * (users - 1))).mean()
    chance = ((counts.sum(axis=0) / users.sum()) ** 2).sum()
    return float((observed - chance) / (1 - chance)) if chance < 1 else None
