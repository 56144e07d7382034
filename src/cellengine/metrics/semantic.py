"""How well a map of classes agrees with the true one, pixel by pixel. Everything follows from the confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[Any]

CHUNK = 1 << 20
"""voxels counted at once, so that the 64-bit index of class pairs stays in the cache"""

MOST_CLASSES = 1024
"""beyond it the matrix would hold more than 8 MiB, and the map is most likely one of instances"""


@dataclass(frozen=True, slots=True)
class SemanticScores:
    """The scores of one picture, or of many taken as one (their sum).

    A class that neither truth nor prediction holds has no score (NaN) and does not enter the means.
    Definitions: Long et al. 2015, Fully Convolutional Networks for Semantic Segmentation.
    """

    confusion: Ints
    """voxels by true class (rows) and predicted class (columns), shape (classes, classes)"""

    @property
    def dice(self) -> Floats:
        """2 |true and predicted| / (|true| + |predicted|) of each class, shape (classes,)."""
        return _ratio(2 * self._hits, self._true + self._predicted)

    @property
    def iou(self) -> Floats:
        """Intersection over union of each class, shape (classes,)."""
        return _ratio(self._hits, self._true + self._predicted - self._hits)

    @property
    def recall(self) -> Floats:
        """Share of each true class that was given that class, shape (classes,); NaN where the truth has none of it."""
        return _ratio(self._hits, self._true)

    @property
    def pixel_accuracy(self) -> float:
        """Share of voxels with the right class; 1 for a picture without voxels."""
        return float(self._hits.sum() / self.confusion.sum()) if self.confusion.any() else 1.0

    @property
    def mean_accuracy(self) -> float:
        """Mean of `recall` over the classes that the truth holds."""
        return _mean(self.recall)

    @property
    def mean_iou(self) -> float:
        """Mean of `iou` over classes."""
        return _mean(self.iou)

    @property
    def mean_dice(self) -> float:
        """Mean of `dice` over classes."""
        return _mean(self.dice)

    @property
    def frequency_weighted_iou(self) -> float:
        """Mean of `iou` over classes, each weighted by its share of the truth."""
        if not self.confusion.any():
            return 1.0
        return float(np.nansum(self._true * self.iou) / self.confusion.sum())

    def row(self) -> dict[str, float]:
        """The scores by name for a table; classes by number."""
        return {
            "mean_dice": self.mean_dice,
            "mean_iou": self.mean_iou,
            "frequency_weighted_iou": self.frequency_weighted_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            **{f"dice_{number}": float(value) for number, value in enumerate(self.dice)},
            **{f"iou_{number}": float(value) for number, value in enumerate(self.iou)},
        }

    def __add__(self, other: SemanticScores) -> SemanticScores:
        """The scores of both pictures taken as one; the one with fewer classes lacks the last ones."""
        classes = max(len(self.confusion), len(other.confusion))
        total = np.zeros((classes, classes), np.int64)
        for confusion in (self.confusion, other.confusion):
            total[: len(confusion), : len(confusion)] += confusion
        return SemanticScores(total)

    @property
    def _hits(self) -> Ints:
        return np.diagonal(self.confusion)

    @property
    def _true(self) -> Ints:
        return np.asarray(self.confusion.sum(axis=1), np.int64)

    @property
    def _predicted(self) -> Ints:
        return np.asarray(self.confusion.sum(axis=0), np.int64)


def evaluate_semantic(truth: Labels, predicted: Labels, classes: int | None = None) -> SemanticScores:
    """Compare two maps of class ids.

    Args:
        truth: class ids 0 ... classes - 1, any shape, integer or boolean
        predicted: class ids of the same shape
        classes: number of classes; by default one more than the greatest id of either map

    Raises ValueError when shapes differ, a dtype is no integer, or an id is out of range.
    """
    return SemanticScores(confusion_matrix(truth, predicted, classes))


def confusion_matrix(truth: Labels, predicted: Labels, classes: int | None = None) -> Ints:
    """Count voxels (or items) by true class (rows) and predicted class (columns); arguments as `evaluate_semantic`.

    One pass in pieces of CHUNK items: memory O(classes^2), whatever the size.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"Class maps of shapes {truth.shape} and {predicted.shape} cannot be compared.")
    for image in (truth, predicted):
        if image.dtype.kind not in "iub":
            raise ValueError(f"A class map holds integers; found {image.dtype}.")
    lowest = min((int(image.min()) for image in (truth, predicted) if image.size), default=0)
    highest = max((int(image.max()) for image in (truth, predicted) if image.size), default=0)
    classes = highest + 1 if classes is None else classes
    if lowest < 0 or highest >= classes:
        raise ValueError(f"Class ids lie between 0 and {classes - 1}; found {lowest} to {highest}.")
    if classes > MOST_CLASSES:
        raise ValueError(f"A map of {classes} classes is probably an image of instances; at most {MOST_CLASSES} count.")
    true_flat, predicted_flat = truth.reshape(-1), predicted.reshape(-1)
    counts = np.zeros(classes * classes, np.int64)
    for start in range(0, true_flat.size, CHUNK):
        pairs = true_flat[start : start + CHUNK].astype(np.int64) * classes
        pairs += predicted_flat[start : start + CHUNK]
        counts += np.bincount(pairs, minlength=counts.size)
    return counts.reshape(classes, classes)


def _ratio(part: Ints, whole: Ints) -> Floats:
    ratio = np.full(len(part), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _mean(values: Floats) -> float:
    """Mean over the classes that have a value; 1 when none has one, which only a picture without voxels can do."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else 1.0
