"""What the network is asked to predict, made from label images: foreground, normalised distance, pixel weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import edt
import numpy as np
from scipy import ndimage

from cellengine.train.config import LossConfig

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Targets:
    """Maps of one picture, each of the labels' shape."""

    foreground: Array
    """bool"""
    distance: Array
    """float16; distance to the cell's outermost voxels over its largest in that cell: 1 in every cell's middle, 0 on
    those voxels and outside, so that cells of a few pixels that touch are parted too"""
    weight: Array
    """float16; weight of each pixel in the losses, 1 at least"""


def make_targets(labels: Array, loss: LossConfig, voxel_size: tuple[float, ...] | None = None) -> Targets:
    """Targets for a label image (integers, 0 is background; any number of axes).

    O(n) in voxels, about 40 bytes a voxel at the peak. Distances respect `voxel_size` (any unit).
    """
    labels = np.ascontiguousarray(labels, dtype=np.uint32)
    count = int(labels.max(initial=0))
    if count == 0:
        flat = np.zeros(labels.shape, np.float16)
        return Targets(labels > 0, flat, np.ones(labels.shape, np.float16))
    # a cell cut by the border of the picture goes on outside, so the border is no edge
    size = voxel_size or (1.0,) * labels.ndim
    distance = np.maximum(edt.edt(labels, anisotropy=size, black_border=False) - min(size), 0)
    index = np.arange(1, count + 1)
    largest = np.concatenate([[1.0], np.maximum(ndimage.maximum(distance, labels, index), 1e-6)]).astype(np.float32)
    normalised = np.minimum(distance / largest[labels], 1.0)
    normalised[(largest[labels] <= 1e-6) & (labels > 0)] = 1.0  # a cell one voxel wide is all middle
    return Targets(labels > 0, normalised.astype(np.float16), _weights(labels, count, loss))


def _weights(labels: Array, count: int, loss: LossConfig) -> Array:
    """1, more for small cells and for the pixels between cells that touch or nearly touch."""
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    typical = np.median(sizes[1:][sizes[1:] > 0])
    boost = np.sqrt(typical / np.maximum(sizes, 1)).clip(1.0, 1.0 + loss.small_object_weight)
    boost[0] = 1.0
    weight = boost[labels]
    highest = ndimage.maximum_filter(labels, 5)
    other = np.where(labels == 0, np.iinfo(np.uint32).max, labels)
    lowest = ndimage.minimum_filter(other, 5)
    weight[(lowest < highest) & (highest > 0)] += loss.separation_weight
    return weight.astype(np.float16)
