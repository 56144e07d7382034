"""How well predicted objects find the true ones: matching by intersection over union, and the scores made of it.

Conventions, for one picture and for sums over pictures alike:

- A pair counts as found when its IoU is at or above the threshold, as in StarDist (Kaggle 2018 asked for more than it).
- Matching is one to one and optimal: as many pairs as possible, and among those the greatest sum of IoU.
- Nothing to find and nothing found is a perfect answer: every score is 1. (StarDist gives 0 there.)
- Otherwise a ratio whose denominator is 0 is 0, as in StarDist: precision without predictions, recall without truth.
- AP is TP / (TP + FP + FN), as in the 2018 Data Science Bowl; StarDist calls it accuracy. The average precision of a
  ranking by score, as in Pascal VOC, is `ranking_ap`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellengine.ops.overlap import Overlap, overlap_table

THRESHOLDS: tuple[float, ...] = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.5, 0.55 ... 0.95: the thresholds of the 2018 Data Science Bowl and of COCO"""

Labels = npt.NDArray[Any]
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


@dataclass(frozen=True, slots=True)
class Match:
    """What was found at one threshold of IoU, in one picture or summed over many."""

    threshold: float
    tp: int
    """true objects that a predicted one matches"""
    fp: int
    """predicted objects without a true one"""
    fn: int
    """true objects without a predicted one"""
    iou_sum: float
    """sum of the IoU of the matched pairs"""

    @property
    def nothing(self) -> bool:
        """Whether there was nothing to find and nothing was found."""
        return self.tp + self.fp + self.fn == 0

    @property
    def ap(self) -> float:
        """TP / (TP + FP + FN)."""
        return self._ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """TP / (TP + FP)."""
        return self._ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN)."""
        return self._ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); the recognition quality RQ of panoptic segmentation."""
        return self._ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the matched pairs (Kirillov et al. 2019, Panoptic Segmentation)."""
        return self._ratio(self.iou_sum, self.tp)

    @property
    def pq(self) -> float:
        """Panoptic quality: SQ times F1."""
        return self._ratio(self.iou_sum, self.tp + (self.fp + self.fn) / 2)

    def _ratio(self, part: float, whole: float) -> float:
        if self.nothing:
            return 1.0
        return part / whole if whole > 0 else 0.0


@dataclass(frozen=True, slots=True)
class InstanceScores:
    """The scores of one picture, or of many pooled as if they were one (see `pool`)."""

    n_true: int
    n_predicted: int
    matches: tuple[Match, ...]
    """one per threshold, in the order asked for"""
    seg_sum: float
    """sum over true objects of the IoU with the prediction that covers more than half of them"""
    wrong_cells: int
    """|predicted - true| number of objects; pooled: the sum of it over pictures, where errors do not cancel"""

    @property
    def mean_ap(self) -> float:
        """Mean of AP over the thresholds."""
        return fmean(match.ap for match in self.matches)

    @property
    def seg(self) -> float:
        """SEG of the Cell Tracking Challenge (Maska et al. 2014): mean over true objects, 0 for one not covered."""
        if self.n_true == 0:
            return 1.0 if self.n_predicted == 0 else 0.0
        return self.seg_sum / self.n_true

    @property
    def count_error(self) -> int:
        """Predicted minus true number of objects; pooled: of all pictures together."""
        return self.n_predicted - self.n_true

    def at(self, threshold: float) -> Match:
        """The match at `threshold`. Raises KeyError when it was not asked for."""
        for match in self.matches:
            if match.threshold == threshold:
                return match
        raise KeyError(f"No match at IoU {threshold}: there are {', '.join(str(m.threshold) for m in self.matches)}.")

    def row(self) -> dict[str, float]:
        """The scores by name for a table: those of the first threshold in full, AP at each, and what needs none."""
        first = self.matches[0]
        return {
            "n_true": self.n_true,
            "n_predicted": self.n_predicted,
            "count_error": self.count_error,
            "wrong_cells": self.wrong_cells,
            "mean_ap": self.mean_ap,
            **{f"ap{match.threshold:g}": match.ap for match in self.matches},
            "tp": first.tp,
            "fp": first.fp,
            "fn": first.fn,
            "precision": first.precision,
            "recall": first.recall,
            "f1": first.f1,
            "sq": first.sq,
            "pq": first.pq,
            "seg": self.seg,
        }


def evaluate_instances(truth: Labels, predicted: Labels, thresholds: Sequence[float] = THRESHOLDS) -> InstanceScores:
    """Match the objects of two label images and score the prediction.

    Args:
        truth: label image, 2D or 3D, any integer dtype; 0 is background, every other value one object
        predicted: label image of the same shape
        thresholds: IoU from which a pair counts as found, each above 0 and at most 1

    Time O(voxels + pairs log pairs) for thresholds of 0.5 and more; see `overlap_table` for the memory.
    Raises ValueError when shapes differ, a dtype is no integer, or a threshold is out of range.
    """
    return score_overlap(overlap_table(truth, predicted), thresholds)


def score_overlap(overlap: Overlap, thresholds: Sequence[float] = THRESHOLDS) -> InstanceScores:
    """The scores of an overlap table whose `a` is the truth and `b` the prediction."""
    n_true, n_predicted = overlap.labels_a.size, overlap.labels_b.size
    matches = []
    for threshold in thresholds:
        pairs = match_objects(overlap, threshold)
        tp = pairs.iou.size
        matches.append(Match(float(threshold), tp, n_predicted - tp, n_true - tp, float(pairs.iou.sum())))
    covered = 2 * overlap.counts > overlap.sizes_a[overlap.rows]
    return InstanceScores(
        n_true=n_true,
        n_predicted=n_predicted,
        matches=tuple(matches),
        seg_sum=float(overlap.iou[covered].sum()),
        wrong_cells=abs(n_predicted - n_true),
    )


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


def pool(pictures: Sequence[InstanceScores]) -> InstanceScores:
    """The scores of all objects of all pictures together: counts and sums are added, ratios follow.

    All pictures must have been scored at the same thresholds. Raises ValueError without pictures.
    """
    if not pictures:
        raise ValueError("There are no scores to pool.")
    return InstanceScores(
        n_true=sum(picture.n_true for picture in pictures),
        n_predicted=sum(picture.n_predicted for picture in pictures),
        matches=tuple(map(_sum_matches, zip(*(picture.matches for picture in pictures), strict=True))),
        seg_sum=sum(picture.seg_sum for picture in pictures),
        wrong_cells=sum(picture.wrong_cells for picture in pictures),
    )


def _sum_matches(matches: Sequence[Match]) -> Match:
    thresholds = {match.threshold for match in matches}
    if len(thresholds) > 1:
        raise ValueError(f"Scores at different thresholds cannot be pooled: {sorted(thresholds)}.")
    return Match(
        threshold=matches[0].threshold,
        tp=sum(match.tp for match in matches),
        fp=sum(match.fp for match in matches),
        fn=sum(match.fn for match in matches),
        iou_sum=sum(match.iou_sum for match in matches),
    )


def mean_over_pictures(pictures: Sequence[InstanceScores]) -> dict[str, float]:
    """The mean of every entry of `InstanceScores.row` over pictures, each picture counting the same.

    Raises ValueError without pictures.
    """
    if not pictures:
        raise ValueError("There are no scores to average.")
    rows = [picture.row() for picture in pictures]
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def ranking_ap(scores: npt.ArrayLike, found: npt.ArrayLike, n_true: int) -> float:
    """Average precision of predictions ranked by score (Everingham et al. 2010, Pascal VOC; all points since 2010).

    Args:
        scores: confidence of each prediction, shape (n,); of equal scores the earlier one ranks first
        found: whether the prediction matches a true object that no better one took, shape (n,)
        n_true: number of true objects

    Returns the area under precision as a function of recall, with precision made monotone from the right.
    """
    ranked = np.asarray(found, bool)[np.argsort(-np.asarray(scores, np.float64), kind="stable")]
    if n_true == 0:
        return 1.0 if ranked.size == 0 else 0.0
    precision = np.cumsum(ranked) / np.arange(1, ranked.size + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision[ranked].sum() / n_true)


def rank_predictions(
    overlap: Overlap, score_of: Mapping[int, float], threshold: float = 0.5
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Score and success of every predicted object of one picture, ready for `ranking_ap`.

    Args:
        overlap: table whose `a` is the truth
        score_of: confidence by label of `b`
        threshold: IoU from which a prediction is right, 0.5 or more. Objects of a label image do not overlap,
            so no two predictions compete for a true object and the ranking does not change who matches whom.

    Concatenate the results of several pictures to rank them together. Raises KeyError when a label has no score.
    """
    scores = np.array([score_of[label] for label in overlap.labels_b.tolist()], np.float64)
    found = np.zeros(scores.size, bool)
    found[match_objects(overlap, threshold).predicted] = True
    return scores, found
