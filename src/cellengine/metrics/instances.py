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
from statistics import fmean
from typing import Any

import numpy.typing as npt

from cellengine.metrics.matching import match_objects
from cellengine.metrics.ranking import Ranking, rank_predictions, ranking_ap
from cellengine.ops.overlap import Overlap, overlap_table

THRESHOLDS: tuple[float, ...] = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.5, 0.55 ... 0.95: the thresholds of the 2018 Data Science Bowl and of COCO"""

Labels = npt.NDArray[Any]


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

    def __add__(self, other: Match) -> Match:
        """What was found in both pictures. Raises ValueError when the thresholds differ."""
        if self.threshold != other.threshold:
            raise ValueError(f"Scores at IoU {self.threshold} and {other.threshold} cannot be pooled.")
        return Match(
            threshold=self.threshold,
            tp=self.tp + other.tp,
            fp=self.fp + other.fp,
            fn=self.fn + other.fn,
            iou_sum=self.iou_sum + other.iou_sum,
        )

    def _ratio(self, part: float, whole: float) -> float:
        if self.nothing:
            return 1.0
        return part / whole if whole > 0 else 0.0


@dataclass(frozen=True, slots=True)
class InstanceScores:
    """The scores of one picture, or of many taken as one (their sum)."""

    n_true: int
    n_predicted: int
    matches: tuple[Match, ...]
    """one per threshold, in the order asked for"""
    seg_sum: float
    """sum over true objects of the IoU with the prediction that covers more than half of them"""
    wrong_cells: int
    """|predicted - true| number of objects; pooled: the sum of it over pictures, where errors do not cancel"""
    ranking: Ranking | None = None
    """present when every predicted object has a score"""

    def __add__(self, other: InstanceScores) -> InstanceScores:
        """The scores of both pictures taken as one. Raises ValueError when they were made at other thresholds."""
        ranking = None
        if self.ranking is not None and other.ranking is not None:
            ranking = self.ranking + other.ranking
        return InstanceScores(
            n_true=self.n_true + other.n_true,
            n_predicted=self.n_predicted + other.n_predicted,
            matches=tuple(a + b for a, b in zip(self.matches, other.matches, strict=True)),
            seg_sum=self.seg_sum + other.seg_sum,
            wrong_cells=self.wrong_cells + other.wrong_cells,
            ranking=ranking,
        )

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
            **self._ranking_row(),
        }

    def _ranking_row(self) -> dict[str, float]:
        if self.ranking is None:
            return {}
        scores, found = self.ranking.scores, self.ranking.found
        aps = [ranking_ap(scores, found[:, column], self.n_true) for column in range(len(self.matches))]
        return {f"voc_ap{self.matches[0].threshold:g}": aps[0], "voc_mean_ap": fmean(aps)}


def evaluate_instances(
    truth: Labels,
    predicted: Labels,
    thresholds: Sequence[float] = THRESHOLDS,
    score_of: Mapping[int, float] | None = None,
) -> InstanceScores:
    """Match the objects of two label images and score the prediction.

    Args:
        truth: label image, 2D or 3D, any integer dtype; 0 is background, every other value one object
        predicted: label image of the same shape
        thresholds: IoU from which a pair counts as found, each above 0 and at most 1
        score_of: confidence by predicted label; adds the average precision of the ranking to `row`

    Time O(voxels + pairs log pairs) for thresholds of 0.5 and more; see `overlap_table` for the memory.
    Raises ValueError when shapes differ, a dtype is no integer, or a threshold is out of range, and KeyError when
    `score_of` lacks a predicted label.
    """
    return score_overlap(overlap_table(truth, predicted), thresholds, score_of)


def score_overlap(
    overlap: Overlap, thresholds: Sequence[float] = THRESHOLDS, score_of: Mapping[int, float] | None = None
) -> InstanceScores:
    """The scores of an overlap table whose `a` is the truth and `b` the prediction; see `evaluate_instances`."""
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
        ranking=None if score_of is None else rank_predictions(overlap, score_of, thresholds),
    )
