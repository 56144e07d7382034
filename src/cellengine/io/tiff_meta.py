"""What a TIFF file says besides its pixels: which image, voxel size, channel names. Nothing is decoded."""

from __future__ import annotations

import json
from math import prod
from xml.etree import ElementTree

import tifffile

from cellengine.errors import InputError
from cellengine.io.axes import micrometres

_ASSOCIATED = ("thumbnail", "label", "macro", "map", "overview", "preview")
"""pictures that slide scanners and microscopes put beside the image"""
_COARSEST_UM = 20.0
"""a plain TIFF's resolution is believed below this size: 72 to 1200 dpi (353 to 21 um) are meant for printing"""


def pick_series(tif: tifffile.TiffFile, name: str, dataset: str | None) -> tifffile.TiffPageSeries:
    """The image of a file that may hold several: the one named or numbered by `dataset`, or the only one.

    Raises InputError for a file with several images and no `dataset`, listing them.
    """
    everything = list(tif.series)
    images = [s for s in everything if not s.keyframe.is_reduced and s.name.lower() not in _ASSOCIATED] or everything
    if dataset is not None:
        chosen = [s for i, s in enumerate(everything) if dataset in (s.name, str(i))]
    else:
        chosen = images if len(images) == 1 else []
    if len(chosen) != 1:
        listed = ", ".join(f"{i} ({s.name or 'unnamed'}, {s.axes} {s.shape})" for i, s in enumerate(everything))
        wanted = f"no single one is called {dataset}" if dataset is not None else "name one with --dataset"
        raise InputError(f"{name}: the file holds {len(everything)} images, {wanted}: {listed}.")
    return chosen[0]


def check_promises(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, name: str) -> None:
    """InputError where the metadata promise an image that tifffile could not put together from the pages."""
    promised = 0
    if tif.is_ome and series.kind != "ome":
        root = ElementTree.fromstring(tif.ome_metadata or "<OME/>")
        if root.find("{*}BinaryOnly") is None:  # one file of a set whose metadata lie in another: a plane by itself
            promised = max((_planes(p) for p in root.iterfind(".//{*}Pixels")), default=1)
    elif tif.is_imagej and series.kind != "imagej":
        promised = int((tif.imagej_metadata or {}).get("images", 1))
    elif tif.is_shaped and series.kind != "shaped":
        shape = json.loads(tif.pages.first.description)["shape"]
        promised = max(2, prod(shape) // max(1, tif.pages.first.size))
    if promised > 1:
        raise InputError(
            f"{name}: its metadata promise {promised} planes that the file does not hold as described; "
            f"it is incomplete or damaged: copy it again or save it anew."
        )


def _planes(pixels: ElementTree.Element) -> int:
    sizes = [int(pixels.get("Size" + axis, "1")) for axis in "TCZ"]
    return sizes[0] * sizes[1] * sizes[2]


def voxel_sizes_um(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> dict[str, float | None]:
    """Micrometres per voxel along Z, Y and X, as far as the file tells them."""
    if series.kind == "ome":
        pixels = _ome_pixels(tif, series)
        return {} if pixels is None else {axis: _ome_size(pixels, axis) for axis in "ZYX"}
    if series.kind == "imagej":
        return _imagej_sizes(tif, series.keyframe)
    if tif.is_lsm and tif.lsm_metadata:
        return {axis: float(tif.lsm_metadata["VoxelSize" + axis]) * 1e6 for axis in "ZYX"}
    if tif.is_stk and tif.stk_metadata:
        return _stk_sizes(tif)
    unit = {2: "inch", 3: "cm"}.get(int(series.keyframe.tags.valueof(296, 2)), "")
    sizes = _resolution(series.keyframe, micrometres(unit))
    if any(size is None or size > _COARSEST_UM for size in sizes.values()):
        return {}
    return {**sizes, "Z": _shaped_spacing(series.keyframe)}


def channel_names(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> tuple[str, ...]:
    """The names of the channels in OME-XML, or none."""
    pixels = _ome_pixels(tif, series) if series.kind == "ome" else None
    if pixels is None:
        return ()
    names = [channel.get("Name") for channel in pixels.iterfind("{*}Channel")]
    return tuple(n for n in names if n is not None) if all(names) else ()


def _ome_pixels(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> ElementTree.Element | None:
    images = ElementTree.fromstring(tif.ome_metadata or "<OME/>").findall("{*}Image")
    named = [i for i in images if i.get("Name") == series.name]
    image = named[0] if len(named) == 1 else images[0] if len(images) == 1 else None
    return None if image is None else image.find("{*}Pixels")


def _ome_size(pixels: ElementTree.Element, axis: str) -> float | None:
    size, unit = pixels.get("PhysicalSize" + axis), micrometres(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    return None if size is None or unit is None else float(size) * unit


def _imagej_sizes(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> dict[str, float | None]:
    meta = tif.imagej_metadata or {}
    unit = micrometres(str(meta.get("unit", "")))
    sizes = _resolution(page, unit)
    spacing = meta.get("spacing")
    sizes["Z"] = float(spacing) * unit if spacing is not None and unit is not None else None
    return sizes


def _resolution(page: tifffile.TiffPage, unit_um: float | None) -> dict[str, float | None]:
    """Micrometres per pixel out of the tags XResolution and YResolution, which count pixels per unit."""
    sizes: dict[str, float | None] = {}
    for axis, code in (("X", 282), ("Y", 283)):
        numerator, denominator = page.tags.valueof(code, (0, 0))
        sizes[axis] = unit_um * denominator / numerator if unit_um is not None and numerator else None
    return sizes


def _stk_sizes(tif: tifffile.TiffFile) -> dict[str, float | None]:
    meta = tif.stk_metadata or {}
    unit = micrometres(str(meta.get("CalibrationUnits", "")))
    if unit is None or not meta.get("SpatialCalibration"):
        return {}
    step = meta.get("ZDistance")
    z = float(step[0]) * unit if step is not None and len(step) and step[0] else None
    return {"Z": z, "Y": float(meta["YCalibration"]) * unit, "X": float(meta["XCalibration"]) * unit}


def _shaped_spacing(page: tifffile.TiffPage) -> float | None:
    """Distance of slices from tifffile's own JSON description, in micrometres, when it names the unit."""
    try:
        meta = json.loads(page.description)
    except ValueError:
        return None
    unit = micrometres(str(meta.get("unit", ""))) if isinstance(meta, dict) else None
    return float(meta["spacing"]) * unit if unit is not None and "spacing" in meta else None
