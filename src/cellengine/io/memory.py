"""Arrays in memory as sources. No files."""

from __future__ import annotations

import numpy as np

from cellengine.errors import InputError
from cellengine.io.axes import Array, Layout, name_dimensions
from cellengine.io.source import BaseSource


class MemorySource(BaseSource):
    """An array as a source. Regions are views of it, so it must not change meanwhile."""

    def __init__(
        self,
        array: Array,
        axes: str | None = None,
        *,
        name: str = "array",
        voxel_size_um: tuple[float, ...] | None = None,
        channel_names: tuple[str, ...] = (),
    ) -> None:
        """Take `array`, whose dimensions are `axes` (letters of TCZYX, in the array's order).

        Without `axes` a 2D array is YX and an 8-bit array of shape (height, width, 3) or (.., 4) is a colour picture,
        as imageio and scikit-image give it; any other raises InputError. The fourth channel, alpha, is left out.
        `voxel_size_um` has one entry for each spatial axis, in Z, Y, X order.
        """
        array = np.asanyarray(array)
        colour = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8 and axes in (None, "YXC")
        found = ["Y", "X", "C"] if colour else ["Y", "X"] if array.ndim == 2 else ["?"] * array.ndim
        layout = Layout.of(array.shape, name_dimensions(name, array.shape, found, axes), 3 if colour else None)
        spatial = sum(a in "ZYX" for a in layout.axes)
        if voxel_size_um is not None and len(voxel_size_um) != spatial:
            raise InputError(
                f"{name}: voxel size {voxel_size_um}; expected {spatial} numbers for the axes {layout.axes}."
            )
        super().__init__(
            name, layout, array.dtype, channel_names=channel_names, is_rgb=colour, voxel_size_um=voxel_size_um
        )
        self._array = array

    def _load(self, stored: tuple[slice, ...]) -> Array:
        return self._array[stored]
