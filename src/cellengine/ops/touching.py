"""Where cells touch: the gap that parts them, and the boundaries between them. Label images in, 0 is background."""

from __future__ import annotations

from typing import Any

import edt
import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellengine.ops.neighbours import check_connectivity, volume_shape


def part_touching(labels: NDArray[Any]) -> NDArray[Any]:
    """Label image (y, x) or (z, y, x) without the voxels that have another cell among their 8 or 26 neighbours.

    Each of two cells that touch loses the layer at which they do. The voxels that go are those that
    skimage.segmentation.find_boundaries(labels, connectivity=labels.ndim, mode="outer") finds inside cells. Cells in
    one layer may vanish: compare the labels before and after. O(voxels); 5 bytes a voxel.
    """
    check_connectivity(1, labels.ndim)
    volume = np.ascontiguousarray(labels, np.uint32).reshape(volume_shape(labels.shape))
    touching = np.zeros(volume.shape, np.bool_)
    _mark_touching(volume, touching)
    parted: NDArray[Any] = np.where(touching.reshape(labels.shape), 0, labels).astype(labels.dtype, copy=False)
    return parted


def boundary_band(labels: NDArray[Any], width_px: int) -> NDArray[np.bool_]:
    """True within `width_px` / 2 of where labels change, background included; `width_px` is even and positive.

    Two voxels wide it is one on either side: skimage.segmentation.find_boundaries(labels, mode="thick"). Distances are
    Euclidean, between voxel centres. O(voxels); 5 bytes a voxel.
    """
    if width_px < 2 or width_px % 2:
        raise ValueError(f"a boundary of {width_px} voxels: expected an even number, half of it on either side")
    raised = np.ascontiguousarray(labels, np.uint32) + np.uint32(1)
    distance = edt.edt(raised, black_border=False, parallel=1)
    band: NDArray[np.bool_] = distance <= width_px / 2 * (1 + 1e-6)
    return band


@njit(nogil=True, cache=True, error_model="numpy")
def _mark_touching(labels: NDArray[np.uint32], touching: NDArray[np.bool_]) -> None:
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                own = labels[z, y, x]
                if own == 0:
                    continue
                for k in range(max(z - 1, 0), min(z + 2, depth)):
                    for j in range(max(y - 1, 0), min(y + 2, height)):
                        for i in range(max(x - 1, 0), min(x + 2, width)):
                            other = labels[k, j, i]
                            if other != 0 and other != own:
                                touching[z, y, x] = True
