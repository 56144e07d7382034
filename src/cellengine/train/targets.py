"""What the network is asked to predict, made from annotations once per picture: a map per head, and pixel weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import edt
import numpy as np
from scipy import ndimage

from cellengine.errors import InputError
from cellengine.ops.touching import boundary_band, part_touching
from cellengine.spec import OutputName
from cellengine.train.settings import LossConfig, TargetConfig
from cellengine.train.weights import pixel_weights

Array = np.ndarray[Any, Any]
Maps = Mapping[str, Array]
"""by head, in the order of the heads, and last `weight`; each of the picture's shape"""

WEIGHT = "weight"


def make_maps(
    labels: Array,
    heads: Sequence[OutputName],
    targets: TargetConfig,
    loss: LossConfig,
    *,
    voxel_size: Sequence[float] | None = None,
    unknown: Array | None = None,
) -> Maps:
    """Maps for a label image (integers, 0 is background; any number of axes), or a map of class ids for `classes`.

    foreground bool, distance and boundary float16 in 0..1, classes uint8, weight float16. `unknown` marks voxels that
    weigh nothing. Distances respect `voxel_size` (any unit); without it all sides of a voxel count as alike, for how
    much a volume was reduced does not say how long they are now. O(n) in voxels but for the weights of Falk et al.,
    about 40 bytes a voxel at the peak.
    """
    labels = np.ascontiguousarray(labels, dtype=np.uint32)
    size = tuple(voxel_size or (1.0,) * labels.ndim)
    makers: dict[str, Callable[[], Array]] = {
        "foreground": lambda: (part_touching(labels) if targets.gap else labels) > 0,
        "distance": lambda: normalised_distance(labels, size),
        "boundary": lambda: soft_boundary(labels, targets, size),
        "classes": lambda: labels.astype(np.uint8),
    }
    maps: dict[str, Array] = {name: makers[name]() for name in heads}
    weight = np.ones(labels.shape, np.float16) if "classes" in heads else pixel_weights(labels, loss, size)
    if unknown is not None:
        weight[unknown] = 0
    return {**maps, WEIGHT: weight}


def normalised_distance(labels: Array, voxel_size: Sequence[float]) -> Array:
    """Distance to the cell's outermost voxels over its largest in that cell, float16.

    1 in every cell's middle, 0 on those voxels and outside, so that cells of a few pixels that touch are parted too.
    """
    count = int(labels.max(initial=0))
    if count == 0:
        return np.zeros(labels.shape, np.float16)
    # a cell cut by the border of the picture goes on outside, so the border is no edge
    distance = np.maximum(edt.edt(labels, anisotropy=tuple(voxel_size), black_border=False) - min(voxel_size), 0)
    distance[np.isinf(distance)] = 1.0  # one cell fills the picture: it has no edge
    index = np.arange(1, count + 1)
    largest = np.concatenate([[1.0], np.maximum(ndimage.maximum(distance, labels, index), 1e-6)]).astype(np.float32)
    normalised: Array = np.minimum(distance / largest[labels], 1.0)
    normalised[(largest[labels] <= 1e-6) & (labels > 0)] = 1.0  # a cell one voxel wide is all middle
    return normalised.astype(np.float16)


def soft_boundary(labels: Array, targets: TargetConfig, voxel_size: Sequence[float]) -> Array:
    """Boundaries between cells and around them, `boundary_px` wide and blurred, float16 in 0..1."""
    boundary = boundary_band(labels, targets.boundary_px).astype(np.float32)
    if targets.boundary_blur_px > 0:
        sides = [side / min(voxel_size) for side in voxel_size]
        boundary = ndimage.gaussian_filter(boundary, [targets.boundary_blur_px / side for side in sides])
    return boundary.astype(np.float16)


def class_ids(mask: Array, values: Sequence[int], ignore: int | None, where: str) -> tuple[Array, Array | None]:
    """Class ids 0 ... of a mask whose class i has the value `values[i]`, and which voxels are unknown.

    Raises InputError for a voxel of any other value; `where` names the file.
    """
    unknown = mask == ignore if ignore is not None else None
    ids = np.full(mask.shape, 255, np.uint8)
    for number, value in enumerate(values):
        ids[mask == value] = number
    if unknown is not None:
        ids[unknown] = 0
    stray = ids == 255
    if stray.any():
        raise InputError(
            f"{where}: {int(stray.sum())} px of values such as {int(mask[stray][0])}; expected "
            f"{', '.join(map(str, values))}: name the values of the classes with data.mask_values, "
            "or what is unknown with data.ignore_value."
        )
    return ids, unknown
