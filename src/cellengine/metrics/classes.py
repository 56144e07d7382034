"""How well a classifier does: accuracy, confusion, ranking, and whether its probabilities can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from cellengine.metrics.semantic import confusion_matrix

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BINS = 15
"""equal-width bins of confidence (Guo et al. 2017, On Calibration of Modern Neural Networks)"""


@dataclass(frozen=True, slots=True)
class ClassScores:
    """The answers of a classifier beside the truth, item by item, and the scores made of them."""

    truth: Ints
    """true class of each item, shape (n,)"""
    predicted: Ints
    """predicted class of each item, shape (n,)"""
    classes: int
    """number of classes"""
    probabilities: Floats | None
    """probability of each class, shape (n, classes), when the classifier gives them"""

    @property
    def confusion(self) -> Ints:
        """Items by true class (rows) and predicted class (columns), shape (classes, classes)."""
        return confusion_matrix(self.truth, self.predicted, self.classes)

    @property
    def accuracy(self) -> float:
        """Share of items with the right class; NaN without items."""
        return float((self.truth == self.predicted).mean()) if self.truth.size else float("nan")

    @property
    def recall(self) -> Floats:
        """Share of each class that was recognised, shape (classes,); NaN where the truth has none of it."""
        return _share(np.diagonal(self.confusion), self.confusion.sum(axis=1))

    @property
    def precision(self) -> Floats:
        """Share of the items called a class that are of it, shape (classes,); NaN where none was called so."""
        return _share(np.diagonal(self.confusion), self.confusion.sum(axis=0))

    @property
    def balanced_accuracy(self) -> float:
        """Mean of `recall` over the classes that the truth holds."""
        return _mean_of_defined(self.recall.tolist())

    @property
    def roc_auc(self) -> float:
        """Area under the ROC curve: of the second class when there are two, else the mean of each against the rest.

        Classes of which the truth holds all items or none do not enter the mean. NaN without probabilities.
        """
        if self.probabilities is None:
            return float("nan")
        tested = [1] if self.classes == 2 else list(range(self.classes))
        return _mean_of_defined([roc_auc(self.truth == number, self.probabilities[:, number]) for number in tested])

    @property
    def calibration_error(self) -> float:
        """Expected calibration error of the predicted class, see `calibration_error`. NaN without probabilities."""
        if self.probabilities is None or not self.truth.size:
            return float("nan")
        confidence = self.probabilities[np.arange(self.truth.size), self.predicted]
        return calibration_error(confidence, self.truth == self.predicted)

    def row(self) -> dict[str, float]:
        """The scores by name for a table; classes by number."""
        return {
            "items": self.truth.size,
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "roc_auc": self.roc_auc,
            "calibration_error": self.calibration_error,
            **{f"recall_{number}": float(value) for number, value in enumerate(self.recall)},
            **{f"precision_{number}": float(value) for number, value in enumerate(self.precision)},
        }

    def __add__(self, other: ClassScores) -> ClassScores:
        """The items of both. Raises ValueError when the numbers of classes differ."""
        if self.classes != other.classes:
            raise ValueError(f"Answers about {self.classes} and {other.classes} classes cannot be pooled.")
        probabilities = None
        if self.probabilities is not None and other.probabilities is not None:
            probabilities = np.concatenate([self.probabilities, other.probabilities])
        return ClassScores(
            truth=np.concatenate([self.truth, other.truth]),
            predicted=np.concatenate([self.predicted, other.predicted]),
            classes=self.classes,
            probabilities=probabilities,
        )


def evaluate_classes(
    truth: npt.ArrayLike, predicted: npt.ArrayLike, classes: int, probabilities: npt.ArrayLike | None = None
) -> ClassScores:
    """Compare the answers of a classifier with the truth.

    Args:
        truth: class 0 ... classes - 1 of each item, shape (n,)
        predicted: class given to each item, shape (n,)
        classes: number of classes
        probabilities: probability of each class, shape (n, classes), when known

    Raises ValueError when shapes do not fit or a class is out of range.
    """
    true, given = np.asarray(truth, np.int64), np.asarray(predicted, np.int64)
    shares = None if probabilities is None else np.asarray(probabilities, np.float64)
    if true.ndim != 1 or given.shape != true.shape:
        raise ValueError(f"Classes come as two lists of one length; found shapes {true.shape} and {given.shape}.")
    if shares is not None and shares.shape != (true.size, classes):
        raise ValueError(f"Probabilities have the shape {(true.size, classes)} here; found {shares.shape}.")
    if true.size and (min(true.min(), given.min()) < 0 or max(true.max(), given.max()) >= classes):
        raise ValueError(f"Classes lie between 0 and {classes - 1}.")
    return ClassScores(true, given, classes, shares)


def roc_auc(positive: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Probability that a positive item scores higher than a negative one, ties counting half (Mann and Whitney 1947).

    Args:
        positive: whether each item is of the class, shape (n,)
        score: how much it looks so, shape (n,)

    NaN when all items are positive or none is. Time O(n log n).
    """
    is_positive = np.asarray(positive, bool)
    _, group, size = np.unique(np.asarray(score, np.float64), return_inverse=True, return_counts=True)
    rank = (np.cumsum(size) - (size - 1) / 2)[group]
    n_positive, n_negative = int(is_positive.sum()), int((~is_positive).sum())
    if not n_positive or not n_negative:
        return float("nan")
    return float((rank[is_positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def calibration_error(confidence: npt.ArrayLike, right: npt.ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over bins of confidence (Guo et al. 2017).

    Args:
        confidence: probability of the given answer, in [0, 1], shape (n,)
        right: whether the answer was right, shape (n,)
        bins: bins of equal width, closed above

    NaN without items.
    """
    sure, correct = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    if not sure.size:
        return float("nan")
    index = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(index, correct - sure, minlength=bins)
    return float(np.abs(gap).sum() / sure.size)


def _share(part: Ints, whole: Ints) -> Floats:
    share = np.full(len(part), np.nan)
    np.divide(part, whole, out=share, where=whole > 0)
    return share


def _mean_of_defined(values: list[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return fmean(defined) if defined else float("nan")
