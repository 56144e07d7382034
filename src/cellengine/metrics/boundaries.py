"""How well the borders between cells are drawn: precision, recall and F1 of boundary voxels, with a tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import edt
import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class BoundaryScores:
    """The scores of one picture, or of many taken as one (their sum)."""

    predicted: int
    """predicted boundary voxels"""
    predicted_near: int
    """of these, the ones within the tolerance of a true boundary voxel"""
    true: int
    """true boundary voxels"""
    true_near: int
    """of these, the ones within the tolerance of a predicted boundary voxel"""

    @property
    def precision(self) -> float:
        """Share of the predicted boundary near a true one; without any, 1 when the truth has none either, else 0."""
        return self.predicted_near / self.predicted if self.predicted else float(self.true == 0)

    @property
    def recall(self) -> float:
        """Share of the true boundary that lies near a predicted one; conventions as `precision`."""
        return self.true_near / self.true if self.true else float(self.predicted == 0)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 when both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    def row(self) -> dict[str, float]:
        """The scores by name for a table."""
        return {
            "boundary_f1": self.f1,
            "boundary_precision": self.precision,
            "boundary_recall": self.recall,
        }

    def __add__(self, other: BoundaryScores) -> BoundaryScores:
        """The scores of both pictures taken as one."""
        return BoundaryScores(
            predicted=self.predicted + other.predicted,
            predicted_near=self.predicted_near + other.predicted_near,
            true=self.true + other.true,
            true_near=self.true_near + other.true_near,
        )


def evaluate_boundaries(
    truth: Mask, predicted: Mask, tolerance_px: float = 2.0, voxel_size: Sequence[float] | None = None
) -> BoundaryScores:
    """Compare two masks of boundaries (see `boundaries_of` for those of label images).

    Args:
        truth: true where a boundary runs, 2D or 3D
        predicted: mask of the same shape
        tolerance_px: distance up to which a voxel counts as near, in voxels of the last axis; 0 asks for the same
            voxel. People who outline the same nucleus differ by one to two pixels.
        voxel_size: size of a voxel per axis in any one unit, for anisotropic volumes; isotropic when left out

    Distances are exact and Euclidean. Time O(voxels); memory 4 bytes a voxel.
    Raises ValueError when shapes differ, a mask is not boolean or the tolerance is negative.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"Boundary masks of shapes {truth.shape} and {predicted.shape} cannot be compared.")
    if truth.dtype != bool or predicted.dtype != bool:
        raise ValueError(f"Boundary masks are boolean; found {truth.dtype} and {predicted.dtype}.")
    if tolerance_px < 0:
        raise ValueError(f"A tolerance is at least 0 px; found {tolerance_px}.")
    sizes = tuple(voxel_size) if voxel_size is not None else (1.0,) * truth.ndim
    spacing = tuple(size / sizes[-1] for size in sizes)
    return BoundaryScores(
        predicted=int(predicted.sum()),
        predicted_near=int((predicted & _near(truth, tolerance_px, spacing)).sum()),
        true=int(truth.sum()),
        true_near=int((truth & _near(predicted, tolerance_px, spacing)).sum()),
    )


def boundaries_of(labels: Labels) -> Mask:
    """True where a voxel and a face neighbour have different labels, background included: two voxels wide.

    Equal to `skimage.segmentation.find_boundaries(labels, connectivity=1, mode="thick")`, without padded copies.
    """
    found = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        before, after = (
            tuple(side if other == axis else slice(None) for other in range(labels.ndim))
            for side in (slice(None, -1), slice(1, None))
        )
        differs = labels[before] != labels[after]
        found[before] |= differs
        found[after] |= differs
    return found


def _near(boundary: Mask, tolerance: float, spacing: tuple[float, ...]) -> Mask:
    """Where a boundary voxel lies within `tolerance`, in voxels of the last axis."""
    if tolerance == 0 or not boundary.any():
        return boundary
    distance = edt.edt(np.ascontiguousarray(~boundary), anisotropy=spacing, black_border=False, parallel=1)
    near: Mask = distance <= tolerance * (1 + 1e-6)  # distances are float32: sqrt(2) must not miss itself
    return near
