"""How much each pixel counts in the losses: maps made once per picture from its labels."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import edt
import numpy as np
from scipy import ndimage

from cellengine.train.settings import LossConfig

Array = np.ndarray[Any, Any]

LEAST_SHARE = 1e-5
"""of cells in a picture: fewer weigh no more for it, 50000 a pixel, because float16 ends at 65504"""


def pixel_weights(labels: Array, loss: LossConfig, voxel_size: Sequence[float]) -> Array:
    """Weights of a label image (uint32, 0 is background), float16 of its shape, by the method `loss.weights`."""
    if loss.weights == "flat" or not labels.any():
        return np.ones(labels.shape, np.float16)
    if loss.weights == "balanced":
        return balanced_weights(labels)
    if loss.weights == "falk":
        return falk_weights(labels, loss, voxel_size)
    return cell_weights(labels, loss)


def cell_weights(labels: Array, loss: LossConfig) -> Array:
    """1, more for small cells and for the pixels between cells that touch or nearly touch."""
    sizes = np.bincount(labels.ravel())
    typical = np.median(sizes[1:][sizes[1:] > 0])
    boost = np.sqrt(typical / np.maximum(sizes, 1)).clip(1.0, 1.0 + loss.small_object_weight)
    boost[0] = 1.0
    weight = boost[labels]
    highest = ndimage.maximum_filter(labels, 5)
    other = np.where(labels == 0, np.iinfo(np.uint32).max, labels)
    lowest = ndimage.minimum_filter(other, 5)
    weight[(lowest < highest) & (highest > 0)] += loss.separation_weight
    return weight.astype(np.float16)


def balanced_weights(labels: Array) -> Array:
    """Cells and background weigh the same in sum, and 1 on average, unless cells are fewer than LEAST_SHARE."""
    share = float((labels > 0).mean())
    cells, background = 0.5 / max(share, LEAST_SHARE), 0.5 / max(1 - share, 1e-3)
    return np.where(labels > 0, cells, background).astype(np.float16)


def falk_weights(labels: Array, loss: LossConfig, voxel_size: Sequence[float]) -> Array:
    """The map of Falk et al. 2019 (U-Net: deep learning for cell counting, detection, and morphometry).

    w = w_bal + lambda w_sep; w_bal is 1 in cells and falls with the distance d1 to the nearest cell to
    `background_weight`; w_sep = exp(-(d1 + d2)^2 / 2 sigma^2) with d2 the distance to the second nearest cell.
    Distances are in px of the shortest side of a voxel; `voxel_size` gives its sides in any unit.

    Each cell is looked at with its surrounding of four sigmas, beyond which the separation weighs less than 1e-3
    lambda: O(cells x their surroundings).
    """
    sides = np.asarray(voxel_size, np.float64) / min(voxel_size)
    reach = 4 * loss.separation_sigma_px
    nearest = np.full(labels.shape, np.inf, np.float32)
    second = np.full(labels.shape, np.inf, np.float32)
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        window = tuple(
            slice(max(0, part.start - ceil(reach / side)), part.stop + ceil(reach / side))
            for part, side in zip(box, sides, strict=True)
        )
        outside = np.ascontiguousarray(labels[window] != number)
        distance = edt.edt(outside, anisotropy=tuple(sides), black_border=False)
        later = np.maximum(nearest[window], distance)
        np.minimum(second[window], later, out=second[window])
        np.minimum(nearest[window], distance, out=nearest[window])
    to_cell = edt.edt(np.ascontiguousarray(labels == 0), anisotropy=tuple(sides), black_border=False)
    fall = np.exp(-(to_cell**2) / (2 * loss.background_sigma_px**2))
    balance = loss.background_weight + (1 - loss.background_weight) * fall
    separation = np.exp(-((nearest + second) ** 2) / (2 * loss.separation_sigma_px**2))
    weights: Array = (balance + loss.separation_weight * separation).astype(np.float16)
    return weights
