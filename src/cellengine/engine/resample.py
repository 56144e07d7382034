"""A source at the voxel size of a model: which grid that is, and reading it piece by piece. Labels go the way back."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from types import TracebackType
from typing import Any, Self

import numpy as np

from cellengine.errors import InputError
from cellengine.geometry import Region
from cellengine.io import ImageSource
from cellengine.ops.resample import needed_region, resample_box
from cellengine.spec import ModelSpec

Array = np.ndarray[Any, Any]

SAME = 0.05
"""voxel sizes that differ by less than this share are taken as equal: resampling would blur for nothing"""
MOST_REDUCED, MOST_ENLARGED = 64.0, 16.0
"""factors beyond which a wrong voxel size is likelier than such a picture"""
READ_VOXELS = 1 << 22
"""voxels read at once: a tile of a much finer picture is made in pieces"""


@dataclass(frozen=True, slots=True)
class Grid:
    """The voxels of a picture and those that the network sees, over the same extent. Whole numbers only.

    A voxel of the picture belongs to the network's voxel in which its centre lies: nearest neighbour.
    """

    image: tuple[int, ...]
    network: tuple[int, ...]

    @property
    def same(self) -> bool:
        """Whether the network sees the picture as it is."""
        return self.image == self.network

    @property
    def loses(self) -> bool:
        """Whether some voxel of the network is nobody's nearest: its labels may vanish on the picture."""
        return any(n > i for i, n in zip(self.image, self.network, strict=True))

    def network_region(self, region: Region) -> Region:
        """The network's voxels that the voxels of a box of the picture belong to."""
        axes = list(zip(region.start, region.stop, self.image, self.network, strict=True))
        start = tuple((2 * a + 1) * n // (2 * i) for a, _, i, n in axes)
        stop = tuple((2 * b - 1) * n // (2 * i) + 1 for _, b, i, n in axes)
        return Region(start, stop)

    def image_region(self, region: Region) -> Region:
        """The voxels of the picture that belong to a box of the network's; empty where there are none."""
        start, stop = ([self._first(p, axis) for axis, p in enumerate(ends)] for ends in (region.start, region.stop))
        return Region(tuple(start), tuple(stop))

    def _first(self, place: int, axis: int) -> int:
        """The first voxel of the picture that belongs to the network's voxel `place` or a later one."""
        image, network = self.image[axis], self.network[axis]
        return min(max(-((network - 2 * image * place) // (2 * network)), 0), image)

    def to_image(self, values: Array, region: Region) -> Array:
        """Values of the network's voxels on a box of the picture; `values`: (..., *network_region(region).shape)."""
        if self.same:
            return values
        low = self.network_region(region).start
        sides = zip(region.start, region.stop, low, self.image, self.network, strict=True)
        for axis, (a, b, first, image, network) in enumerate(sides, values.ndim - len(self.image)):
            if image != network:
                nearest = (2 * np.arange(a, b) + 1) * network // (2 * image) - first
                values = np.take(values, nearest, axis)
        return values

    def whole_to_image(self, values: Array) -> Array:
        """As `to_image`, for the whole picture; `values`: (..., *network)."""
        whole = Region.whole(self.image)
        seen: tuple[Any, ...] = (..., *self.network_region(whole).slices)
        return self.to_image(values[seen], whole)


def fit_source(source: ImageSource, spec: ModelSpec) -> ImageSource:
    """`source` as the model wants to see it: itself where the voxel sizes agree, else a `ResampledSource`.

    A model without voxel size takes voxels as they come. So does one whose voxels are as long as wide where the file
    says nothing; an anisotropic model of volumes needs to know. Raises InputError for that, and for voxel sizes so far
    from the model's that they must be wrong.
    """
    shape = []
    for axis, length in zip(source.axes, source.shape, strict=True):
        if axis not in spec.axes:
            continue
        factor = _factors(source, spec)[spec.axes.index(axis)]
        shape.append(length if abs(factor - 1) < SAME else max(1, int(length / factor + 0.5)))
    full = _all_spatial(source, spec, tuple(shape))
    return source if full == _spatial(source) else ResampledSource(source, full)


def size_unknown(source: ImageSource, spec: ModelSpec) -> list[str]:
    """A warning where the model would like to know the voxel size and the file does not say."""
    if spec.voxel_size_um is None or source.voxel_size_um is not None:
        return []
    wanted, letters = (",".join(items) for items in ((f"{v:g}" for v in spec.voxel_size_um), spec.axes.lower()))
    return [
        f"{source.name}: no voxel size is known, so it is taken to be that of the model {spec.name} "
        f"({letters} = {wanted} um); say otherwise with --voxel-size"
    ]


def _factors(source: ImageSource, spec: ModelSpec) -> tuple[float, ...]:
    """How many voxels of the source the model's voxel is long, per axis of the model."""
    if spec.reduce is not None:
        return spec.reduce
    if spec.voxel_size_um is None:
        return (1.0,) * len(spec.axes)
    wanted = ",".join(f"{v:g}" for v in spec.voxel_size_um)
    letters = ",".join(spec.axes.lower())
    if source.voxel_size_um is None:
        if len(spec.axes) == 3 and max(spec.voxel_size_um) > (1 + SAME) * min(spec.voxel_size_um):
            raise InputError(
                f"{source.name}: found no voxel size, the model {spec.name} works at {letters} = {wanted} um; "
                f"say what it is with --voxel-size {letters} in um."
            )
        return (1.0,) * len(spec.axes)
    size = dict(zip((a for a in source.axes if a in "ZYX"), source.voxel_size_um, strict=True))
    factors = tuple(v / size[a] for v, a in zip(spec.voxel_size_um, spec.axes, strict=True))
    if any(not 1 / MOST_ENLARGED <= f <= MOST_REDUCED for f in factors):
        found = ",".join(f"{size[a]:g}" for a in spec.axes)
        raise InputError(
            f"{source.name}: found voxels of {letters} = {found} um, the model {spec.name} works at {wanted} um; "
            f"so far apart one must be wrong: say the true size with --voxel-size {letters} in um."
        )
    return factors


def _spatial(source: ImageSource) -> tuple[int, ...]:
    return tuple(n for a, n in zip(source.axes, source.shape, strict=True) if a in "ZYX")


def _all_spatial(source: ImageSource, spec: ModelSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` of the model's axes completed by the others, such as the planes that a 2D model takes one by one."""
    fitted = iter(shape)
    pairs = zip(source.axes, source.shape, strict=True)
    return tuple(next(fitted) if a in spec.axes else n for a, n in pairs if a in "ZYX")


class ResampledSource:
    """A source at another number of voxels per spatial axis, over the same extent and in the same type.

    Reading a part gives the bits of the same part of the whole. A reduced voxel is the mean of what it covers, an
    enlarged one is interpolated; see `cellengine.ops.resample`. Closing it closes the source.
    """

    def __init__(self, source: ImageSource, spatial: tuple[int, ...]) -> None:
        self._source = source
        sizes = iter(spatial)
        self.name, self.axes, self.dtype = source.name, source.axes, source.dtype
        self.channel_names, self.is_rgb = source.channel_names, source.is_rgb
        self.shape = tuple(next(sizes) if a in "ZYX" else n for a, n in zip(source.axes, source.shape, strict=True))
        pairs = zip(source.chunks, source.shape, self.shape, strict=True)
        self.chunks = tuple(max(1, c * new // old) for c, old, new in pairs)
        self.voxel_size_um = None
        if source.voxel_size_um is not None:
            sides = zip(source.voxel_size_um, _spatial(source), spatial, strict=True)
            self.voxel_size_um = tuple(size * old / new for size, old, new in sides)

    def read(self, region: Region) -> Array:
        """See `ImageSource.read`. Memory: the part asked for, and 4 M voxels of the source as floats."""
        if not Region.whole(self.shape).contains(region):
            raise ValueError(f"{region} is not inside an image of shape {self.shape} ({self.axes}).")
        out = np.empty(region.shape, self.dtype)
        self._fill(region, region, out)
        return out

    def _fill(self, part: Region, region: Region, out: Array) -> None:
        """Write `part` of `region` into `out`, which holds `region`; halved until what must be read is small."""
        needed = needed_region(part, self._source.shape, self.shape)
        axis = max(range(len(part.start)), key=lambda i: (part.shape[i] > 1, needed.shape[i]))
        if prod(needed.shape) > READ_VOXELS and part.shape[axis] > 1:
            middle = (part.start[axis] + part.stop[axis]) // 2
            cut = tuple(middle if i == axis else n for i, n in enumerate(part.stop))
            rest = tuple(middle if i == axis else n for i, n in enumerate(part.start))
            self._fill(Region(part.start, cut), region, out)
            self._fill(Region(rest, part.stop), region, out)
            return
        values = self._source.read(needed)
        out[part.relative_to(region)] = resample_box(values, part, self._source.shape, self.shape)

    def missing_chunks(self) -> int:
        """See `ImageSource.missing_chunks`."""
        return self._source.missing_chunks()

    def forget(self) -> None:
        """See `ImageSource.forget`."""
        self._source.forget()

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
