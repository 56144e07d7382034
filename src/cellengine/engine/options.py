"""What the user may decide about a run; everything else follows from the file and the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class InferOptions:
    """Settings of `infer`. Those of the first group change the result and belong to a run's identity."""

    axes: str | None = None
    """names of the file's axes where it gives none, in its order, e.g. "ZYX" """
    dataset: str | None = None
    """the image to take from a file that holds several, by name or number"""
    channel: tuple[str, ...] = ()
    """channels that feed the model, by number (from 0) or name"""
    timepoint: int | None = None
    """the one time point to label (from 0); None for all"""
    voxel_size_um: tuple[float, ...] | None = None
    """voxel size of the pictures, per spatial axis in Z, Y, X order; None takes what the file says"""
    resample: bool = True
    """show the model voxels of its own size; False takes those of the pictures as they are"""
    tile: tuple[int, ...] | None = None
    """tile shape in px per axis; None lets the plan choose"""
    halo: int | Literal["auto", "exact"] = "auto"
    """px read around each tile's core: the measured halo, the whole receptive field, or a number"""
    nan: Literal["error", "zero"] = "error"
    """what to do with NaN and infinite values"""
    missing: Literal["warn", "error"] = "warn"
    """what to do when stored chunks are absent"""

    batch: int = 1
    """tiles per call of the network"""
    max_ram: int | None = None
    """bytes of memory the run may plan with; None: a share of what the system allows this process"""
    max_vram: int | None = None
    """bytes of a GPU's memory that the network may take; None: a share of all of it"""
    format: Literal["auto", "tif", "ome-zarr"] = "auto"
    """how labels are written"""
    outlines: Literal["geojson", "imagej"] | None = None
    """also write the outlines of the objects, for QuPath or for ImageJ"""
    on_error: Literal["skip", "stop"] = "skip"
    """go on with the other files when one fails, or stop"""

    def identity(self) -> dict[str, object]:
        """The settings that decide the result."""
        names = (
            "axes",
            "dataset",
            "channel",
            "timepoint",
            "voxel_size_um",
            "resample",
            "tile",
            "halo",
            "nan",
            "missing",
            "batch",
            "max_ram",
            "max_vram",
            "format",
            "outlines",
        )
        return {name: getattr(self, name) for name in names}
