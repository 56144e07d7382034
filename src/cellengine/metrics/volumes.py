"""How well a dense partition into cells agrees with the true one: information that splits and merges cost, Rand error.

Unlike matching, these scores do not ask which cell is which; they suit tissue without background (reports on
connectomics and PlantSeg use them).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellengine.ops.overlap import Overlap, overlap_table

Ints = npt.NDArray[np.int64]
Labels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class PartitionScores:
    """The scores of one volume, or of many taken as one with labels of their own (their sum)."""

    voxels: int
    """voxels that count"""
    split_bits: float
    """conditional entropy H(predicted | truth) times voxels, in bits"""
    merge_bits: float
    """conditional entropy H(truth | predicted) times voxels, in bits"""
    pairs_both: int
    """ordered pairs of voxels that truth and prediction both put into one segment"""
    pairs_true: int
    """ordered pairs of voxels in one segment of the truth"""
    pairs_predicted: int
    """ordered pairs of voxels in one segment of the prediction"""

    @property
    def voi_split(self) -> float:
        """H(predicted | truth) in bits: what is lost by cutting true cells apart (Meila 2007); 0 is perfect."""
        return self.split_bits / self.voxels if self.voxels else 0.0

    @property
    def voi_merge(self) -> float:
        """H(truth | predicted) in bits: what is lost by joining true cells; 0 is perfect."""
        return self.merge_bits / self.voxels if self.voxels else 0.0

    @property
    def voi(self) -> float:
        """Variation of information: the sum of `voi_split` and `voi_merge`."""
        return self.voi_split + self.voi_merge

    @property
    def rand_split(self) -> float:
        """Of the voxel pairs in one true segment, the share that the prediction keeps together; 1 is perfect."""
        return self.pairs_both / self.pairs_true if self.pairs_true else 1.0

    @property
    def rand_merge(self) -> float:
        """Of the voxel pairs in one predicted segment, the share that belongs together; 1 is perfect."""
        return self.pairs_both / self.pairs_predicted if self.pairs_predicted else 1.0

    @property
    def adapted_rand_error(self) -> float:
        """One minus the harmonic mean of the two (Arganda-Carreras et al. 2015); 0 is perfect."""
        pairs = self.pairs_true + self.pairs_predicted
        return 1 - 2 * self.pairs_both / pairs if pairs else 0.0

    def row(self) -> dict[str, float]:
        """The scores by name for a table."""
        return {
            "voi": self.voi,
            "voi_split": self.voi_split,
            "voi_merge": self.voi_merge,
            "adapted_rand_error": self.adapted_rand_error,
            "rand_split": self.rand_split,
            "rand_merge": self.rand_merge,
        }

    def __add__(self, other: PartitionScores) -> PartitionScores:
        """The scores of both volumes taken as one whose labels differ."""
        return PartitionScores(
            voxels=self.voxels + other.voxels,
            split_bits=self.split_bits + other.split_bits,
            merge_bits=self.merge_bits + other.merge_bits,
            pairs_both=self.pairs_both + other.pairs_both,
            pairs_true=self.pairs_true + other.pairs_true,
            pairs_predicted=self.pairs_predicted + other.pairs_predicted,
        )


def evaluate_partition(truth: Labels, predicted: Labels, ignore_background: bool = True) -> PartitionScores:
    """Variation of information and adapted Rand error of two label images.

    Args:
        truth: label image of any shape and integer dtype
        predicted: label image of the same shape
        ignore_background: leave out the voxels whose true label is 0; otherwise background counts as a segment.
            In the prediction, background is a segment in either case.

    Equal to `skimage.metrics.variation_of_information` and `adapted_rand_error` with `ignore_labels=(0,)` or `()`.
    Time and memory as `overlap_table`. Raises ValueError when shapes differ or a dtype is no integer.
    """
    overlap = overlap_table(truth, predicted)
    rows, columns, counts = _with_background(overlap, ignore_background)
    in_true = np.zeros(overlap.sizes_a.size + 1, np.int64)
    in_predicted = np.zeros(overlap.sizes_b.size + 1, np.int64)
    np.add.at(in_true, rows, counts)
    np.add.at(in_predicted, columns, counts)
    return PartitionScores(
        voxels=int(counts.sum()),
        split_bits=float((counts * np.log2(in_true[rows] / counts)).sum()),
        merge_bits=float((counts * np.log2(in_predicted[columns] / counts)).sum()),
        pairs_both=_ordered_pairs(counts),
        pairs_true=_ordered_pairs(in_true),
        pairs_predicted=_ordered_pairs(in_predicted),
    )


def _with_background(overlap: Overlap, ignore_background: bool) -> tuple[Ints, Ints, Ints]:
    """The pairs that count, background as the last row and column; pairs without voxels left out."""
    last_row, last_column = overlap.sizes_a.size, overlap.sizes_b.size
    outside_b, outside_a = overlap.sizes_a.copy(), overlap.sizes_b.copy()
    np.subtract.at(outside_b, overlap.rows, overlap.counts)
    np.subtract.at(outside_a, overlap.columns, overlap.counts)
    rows = [overlap.rows, np.arange(last_row)]
    columns = [overlap.columns, np.full(last_row, last_column)]
    counts = [overlap.counts, outside_b]
    if not ignore_background:
        neither = overlap.voxels - int(overlap.sizes_a.sum()) - int(outside_a.sum())
        rows += [np.full(last_column, last_row), np.array([last_row])]
        columns += [np.arange(last_column), np.array([last_column])]
        counts += [outside_a, np.array([neither])]
    all_counts = np.concatenate(counts)
    filled = all_counts > 0
    return np.concatenate(rows)[filled], np.concatenate(columns)[filled], all_counts[filled]


def _ordered_pairs(sizes: Ints) -> int:
    """Ordered pairs of different voxels within segments, as a Python integer: 64 bits overflow at 3 Gvoxel."""
    return sum(size * (size - 1) for size in sizes.tolist())
