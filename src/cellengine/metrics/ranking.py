"""Scores that ask whether a model is surer of its right answers than of its wrong ones (Pascal VOC)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellengine.metrics.matching import match_objects
from cellengine.ops.overlap import Overlap

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ranking:
    """How sure the model was of each predicted object, and whether it was right."""

    scores: Floats
    """confidence of each predicted object, shape (n,)"""
    found: npt.NDArray[np.bool_]
    """whether it matches a true object, shape (n, thresholds)"""

    def __add__(self, other: Ranking) -> Ranking:
        return Ranking(np.concatenate([self.scores, other.scores]), np.concatenate([self.found, other.found]))


def rank_predictions(overlap: Overlap, score_of: Mapping[int, float], thresholds: Sequence[float]) -> Ranking:
    """Score and success of every predicted object of one picture.

    Args:
        overlap: table whose `a` is the truth
        score_of: confidence by label of `b`
        thresholds: IoU from which a prediction is right, 0.5 or more: objects of a label image do not overlap, so no
            two predictions compete for a true object and the ranking does not change who matches whom

    Raises KeyError when a predicted label has no score.
    """
    scores = np.array([score_of[label] for label in overlap.labels_b.tolist()], np.float64)
    found = np.zeros((scores.size, len(thresholds)), bool)
    for column, threshold in enumerate(thresholds):
        found[match_objects(overlap, threshold).predicted, column] = True
    return Ranking(scores, found)


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
