"""How the dimensions of a stored array become the axes T, C, Z, Y, X of a source. Names and integers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from cellengine.errors import InputError
from cellengine.geometry import Region

AXES = "TCZYX"
"""The axes of every source, in the order in which a source has them."""
DROPPED = "-"
"""Stands in `Layout.stored_axes` for a dimension of length 1 that the source does not have."""
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Layout:
    """Stored dimensions on one side, the source's axes on the other."""

    stored_axes: str
    """one letter a stored dimension: T, C, Z, Y, X, or `DROPPED`"""
    axes: str
    """the axes of the source: those letters in the order TCZYX"""
    shape: tuple[int, ...]
    """one length an axis of `axes`"""

    @classmethod
    def of(cls, stored_shape: Sequence[int], stored_axes: str, channels: int | None = None) -> Layout:
        """The layout of an array of `stored_shape`; T, C and Z of length 1 are dropped.

        `channels` keeps only so many of the channels: an alpha channel, which comes last, is left out that way.
        Raises ValueError when a letter is unknown or comes twice, or when Y or X is missing.
        """
        length = dict(zip(stored_axes, stored_shape, strict=True))
        if channels is not None and "C" in length:
            length["C"] = min(channels, length["C"])
        for axis in "TCZ":
            if length.get(axis) == 1:
                stored_axes = stored_axes.replace(axis, DROPPED)
        letters = stored_axes.replace(DROPPED, "")
        if not set(letters) <= set(AXES) or len(set(letters)) < len(letters) or not {"Y", "X"} <= set(letters):
            raise ValueError(f"axes {stored_axes!r}: expected letters of {AXES}, each at most once, with Y and X")
        axes = "".join(a for a in AXES if a in letters)
        return cls(stored_axes, axes, tuple(length[a] for a in axes))

    def stored(self, region: Region) -> tuple[slice, ...]:
        """Slices into the stored array for a `region` of the source."""
        at = dict(zip(self.axes, region.slices, strict=True))
        return tuple(slice(0, 1) if a == DROPPED else at[a] for a in self.stored_axes)

    def arrange(self, block: Array) -> Array:
        """A stored block as the source gives it out: a view, without the dropped dimensions and in TCZYX order."""
        block = block[tuple(0 if a == DROPPED else slice(None) for a in self.stored_axes)]
        kept = self.stored_axes.replace(DROPPED, "")
        return block.transpose([kept.index(a) for a in self.axes])


def name_dimensions(where: str, shape: Sequence[int], found: Sequence[str], override: str | None) -> str:
    """One letter of TCZYX, or `DROPPED`, for each stored dimension.

    `found` holds what the file says of each dimension: a letter of TCZYX, or anything else for one whose meaning it
    does not tell. Those of length 1 are dropped, unless they are Y or X. `override` is the user's word (`--axes`) on
    the dimensions that are left, or on all of them, in the order of the file.

    Raises InputError where a dimension stays without a name or `override` does not fit.
    """
    kept = [i for i, n in enumerate(shape) if n != 1 or found[i] in ("Y", "X")]
    if override is not None:
        override = override.upper()
        kept = list(range(len(shape))) if len(override) == len(shape) else kept
        return _overridden(where, shape, kept, override)
    names = [found[i] if i in kept else DROPPED for i in range(len(shape))]
    letters = [n for n in names if n != DROPPED]
    if all(n in AXES for n in letters) and len(set(letters)) == len(letters) and {"Y", "X"} <= set(letters):
        return "".join(names)
    lengths = " x ".join(str(shape[i]) for i in kept)
    raise InputError(
        f"{where}: the file does not say what its dimensions {lengths} are; name them in this order "
        f"with letters of {AXES}, for example --axes {_example(len(kept))}."
    )


def _overridden(where: str, shape: Sequence[int], kept: list[int], override: str) -> str:
    """The user's letters, laid on the dimensions `kept`."""
    lengths = " x ".join(str(shape[i]) for i in kept)
    known = set(override) <= set(AXES) and len(set(override)) == len(override) and {"Y", "X"} <= set(override)
    if not known or len(override) != len(kept):
        raise InputError(
            f"{where}: --axes {override} does not fit the dimensions {lengths}; expected {len(kept)} different letters "
            f"of {AXES}, Y and X among them, for example --axes {_example(len(kept))}."
        )
    names = [DROPPED] * len(shape)
    for i, letter in zip(kept, override, strict=True):
        names[i] = letter
    return "".join(names)


def _example(ndim: int) -> str:
    return {2: "YX", 3: "ZYX", 4: "CZYX"}.get(ndim, AXES)


def voxel_size(axes: str, sizes_um: Mapping[str, float | None]) -> tuple[float, ...] | None:
    """Micrometres per voxel for each spatial axis in `axes`, in Z, Y, X order.

    None unless every one of them is known, finite and not zero. Some programs write a negative distance between
    slices for a stack taken downwards; its size is what counts here.
    """
    known = [sizes_um.get(a) for a in "ZYX" if a in axes]
    sizes = tuple(abs(float(s)) for s in known if s is not None and isfinite(s) and s != 0)
    return sizes if len(sizes) == len(known) else None


_MICROMETRES = {
    "ym": 1e-18, "zm": 1e-15, "am": 1e-12, "fm": 1e-9, "pm": 1e-6, "å": 1e-4, "angstrom": 1e-4, "ångström": 1e-4,
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0,
    "micrometer": 1.0, "micrometre": 1.0, "mm": 1e3, "millimeter": 1e3, "millimetre": 1e3, "cm": 1e4,
    "centimeter": 1e4, "centimetre": 1e4, "inch": 25400.0, "in": 25400.0, "m": 1e6, "meter": 1e6, "metre": 1e6,
}  # fmt: skip


def micrometres(unit: str) -> float | None:
    """Micrometres in one `unit` as image files spell it; None for pixels and anything unknown."""
    return _MICROMETRES.get(unit.strip().replace("\\u00B5", "µ").lower())
