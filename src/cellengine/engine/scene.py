"""The pictures in a source as the network sees them: a 2D model takes every plane, a 3D model every volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from cellengine.engine.options import InferOptions
from cellengine.engine.resample import Grid, fit_source
from cellengine.errors import InputError, UsageError
from cellengine.geometry import Region
from cellengine.io import ImageSource
from cellengine.spec import ModelSpec

Array = np.ndarray[Any, Any]

COLOUR = ("red", "green", "blue")


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture: the spatial axes of the model at one place of the others."""

    source: ImageSource
    axes: str
    """spatial axes, as the model's"""
    at: dict[str, int]
    """place on the axes that the model does not have: t, z"""
    channels: tuple[int, ...]
    """channels of the source that feed the model, in the model's order"""
    fill: bool = False
    """give out 0 for NaN and infinite values"""
    fitted: ImageSource | None = None
    """the source at the model's voxel size, where that is another one"""

    @property
    def seen(self) -> Scene:
        """The picture as the network sees it: at the model's voxel size."""
        return self if self.fitted is None else replace(self, source=self.fitted, fitted=None)

    @property
    def grid(self) -> Grid:
        """How the voxels of the picture and those that the network sees lie."""
        return Grid(self.shape, self.seen.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return tuple(n for a, n in zip(self.source.axes, self.source.shape, strict=True) if a in self.axes)

    @property
    def voxel_size_um(self) -> tuple[float, ...] | None:
        """Per spatial axis of the scene."""
        size = self.source.voxel_size_um
        return None if size is None else size[len(size) - len(self.axes) :]

    def place(self, axes: str, region: Region) -> Region:
        """Where a box of this picture lies in the labels of the source, whose axes are `axes`."""
        inside = iter(zip(region.start, region.stop, strict=True))
        bounds = [
            next(inside) if axis in self.axes else (self.at[axis.lower()], self.at[axis.lower()] + 1) for axis in axes
        ]
        return Region(tuple(a for a, _ in bounds), tuple(b for _, b in bounds))

    def read(self, region: Region) -> Array:
        """Raw values of the model's channels, (C, *region.shape); the region lies inside the picture.

        Channels that repeat are read once and given out as a view.
        """
        block = self.read_channels(region, tuple(dict.fromkeys(self.channels)))
        if len(self.channels) == len(block):
            return block
        return np.broadcast_to(block, (len(self.channels), *region.shape))

    def read_all_channels(self, region: Region) -> Array:
        """Raw values of every channel the file has, (C, *region.shape), for measurements."""
        count = self.source.shape[self.source.axes.index("C")] if "C" in self.source.axes else 1
        return self.read_channels(region, tuple(range(count)))

    def read_channels(self, region: Region, channels: tuple[int, ...]) -> Array:
        """Raw values of `channels`, (len(channels), *region.shape)."""
        low, high = min(channels), max(channels) + 1
        start, stop, drop = [], [], []
        spatial = iter(zip(region.start, region.stop, strict=True))
        for axis in self.source.axes:
            if axis == "C":
                bounds, keep = (low, high), True
            elif axis in self.axes:
                bounds, keep = next(spatial), True
            else:
                bounds, keep = (self.at[axis.lower()], self.at[axis.lower()] + 1), False
            start.append(bounds[0])
            stop.append(bounds[1])
            drop.append(slice(None) if keep else 0)
        block = self.source.read(Region(tuple(start), tuple(stop)))[tuple(drop)]
        if self.fill:
            block = np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
        if "C" not in self.source.axes:
            return block[None]
        block = np.moveaxis(block, self._channel_axis(), 0)
        picked = [c - low for c in channels]
        return block if picked == list(range(high - low)) else block[picked]

    def _channel_axis(self) -> int:
        """Where C stands among the axes that are kept."""
        return [a for a in self.source.axes if a == "C" or a in self.axes].index("C")


def scenes(source: ImageSource, spec: ModelSpec, options: InferOptions) -> list[Scene]:
    """The pictures of `source` for a model, in the file's order. InputError or UsageError on what is unclear."""
    missing = [a for a in spec.axes if a not in source.axes]
    if missing:
        raise InputError(
            f"{source.name}: found the axes {source.axes} {source.shape}, the model {spec.name} works in {spec.axes}; "
            "give it a stack, or say what the axes are with --axes."
        )
    channels = _channels(source, spec, options)
    places = [
        [(axis.lower(), i) for i in _range(axis, size, source, options)]
        for axis, size in zip(source.axes, source.shape, strict=True)
        if axis != "C" and axis not in spec.axes
    ]
    at_model = fit_source(source, spec) if options.resample else source
    fitted = None if at_model is source else at_model
    return [Scene(source, spec.axes, dict(place), channels, fitted=fitted) for place in product(*places)]


def _range(axis: str, size: int, source: ImageSource, options: InferOptions) -> Sequence[int]:
    if axis != "T" or options.timepoint is None:
        return range(size)
    if not 0 <= options.timepoint < size:
        raise UsageError(f"{source.name}: --timepoint {options.timepoint}, but it has 0 to {size - 1}.")
    return [options.timepoint]


def _channels(source: ImageSource, spec: ModelSpec, options: InferOptions) -> tuple[int, ...]:
    """Which channels of the source feed the model; what is not obvious is asked for, never guessed."""
    count = source.shape[source.axes.index("C")] if "C" in source.axes else 1
    needed = len(spec.channels)
    if options.channel:
        chosen = tuple(_channel(source, count, c) for c in options.channel)
        if len(chosen) not in (1, needed):
            raise UsageError(
                f"--channel names {len(chosen)} channels, the model {spec.name} takes {needed} (or one, repeated)."
            )
        return chosen if len(chosen) == needed else chosen * needed
    if count == 1:
        return (0,) * needed
    if count == needed and (source.is_rgb or spec.channels != COLOUR):
        return tuple(range(count))
    found = "a colour picture" if source.is_rgb else f"{count} channels ({_names(source, count)})"
    raise InputError(
        f"{source.name}: found {found}, the model {spec.name} takes {needed} ({', '.join(spec.channels)}); "
        "choose with --channel, e.g. --channel 0."
    )


def _channel(source: ImageSource, count: int, wanted: str) -> int:
    if wanted.isdigit() and int(wanted) < count:
        return int(wanted)
    if wanted in source.channel_names:
        return source.channel_names.index(wanted)
    raise UsageError(f"{source.name}: no channel {wanted!r}; it has {_names(source, count)}.")


def _names(source: ImageSource, count: int) -> str:
    names: Iterator[str] = (f"{i}: {n}" for i, n in enumerate(source.channel_names))
    return ", ".join(names) if source.channel_names else f"0 to {count - 1}"
