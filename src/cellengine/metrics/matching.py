"""Which predicted object answers which true one: an optimal one-to-one matching by intersection over union."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellengine.ops.overlap import Overlap

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Matched objects of an overlap table whose `a` is the truth: three arrays of one length, in order of `true`."""

    true: Ints
    """index into `labels_a`"""
    predicted: Ints
    """index into `labels_b`"""
    iou: Floats


def match_objects(overlap: Overlap, threshold: float) -> Pairs:
    """The optimal one-to-one matching among the pairs whose IoU is at least `threshold`.

    At 0.5 and above two candidate pairs share an object only where it is cut into two exact halves, each with IoU 0.5;
    to take pairs greedily by IoU is then optimal (the half of the smaller label wins). Below 0.5 the assignment
    problem is solved on each connected component of the candidates, which stay small in real pictures.

    Raises ValueError unless 0 < threshold <= 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"A threshold of IoU lies above 0 and not above 1; found {threshold}.")
    iou = overlap.iou
    candidates = np.flatnonzero(iou >= threshold)
    rows, columns, iou = overlap.rows[candidates], overlap.columns[candidates], iou[candidates]
    chosen = _first_of_each(rows, columns) if threshold >= 0.5 else _assign(rows, columns, iou)
    return Pairs(rows[chosen], columns[chosen], iou[chosen])


def _first_of_each(rows: Ints, columns: Ints) -> Ints:
    """Indices of the first pair of every row and column. All that compete have IoU 0.5, so any of them is optimal."""
    _, by_row = np.unique(rows, return_index=True)
    _, by_column = np.unique(columns, return_index=True)
    return np.intersect1d(by_row, by_column)


def _assign(rows: Ints, columns: Ints, iou: Floats) -> Ints:
    """Indices of the pairs of a maximum matching with the greatest sum of IoU, component by component."""
    if not rows.size:
        return np.zeros(0, np.int64)
    n_rows, n_columns = int(rows.max()) + 1, int(columns.max()) + 1
    graph = coo_array((np.ones(rows.size, np.int8), (rows, n_rows + columns)), shape=(n_rows + n_columns,) * 2)
    _, component = connected_components(graph, directed=False)
    order = np.argsort(component[rows], kind="stable")
    chosen: list[int] = []
    for _, group in groupby(order.tolist(), key=lambda pair: component[rows[pair]]):
        chosen.extend(_assign_component(np.fromiter(group, np.int64), rows, columns, iou))
    return np.sort(np.array(chosen, np.int64))


def _assign_component(members: Ints, rows: Ints, columns: Ints, iou: Floats) -> list[int]:
    if members.size == 1:
        return [int(members[0])]
    _, row = np.unique(rows[members], return_inverse=True)
    _, column = np.unique(columns[members], return_inverse=True)
    index = np.full((row.max() + 1, column.max() + 1), -1, np.int64)
    index[row, column] = members
    # one more pair outweighs every possible gain in IoU, which is at most the number of pairs
    gain = np.where(index >= 0, min(index.shape) + 1 + iou[index], 0.0)
    taken = index[linear_sum_assignment(gain, maximize=True)]
    return [int(pair) for pair in taken[taken >= 0]]
