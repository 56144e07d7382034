"""OME-Zarr 0.1 to 0.5 and plain Zarr arrays as sources; the full size is read. Writing is in `zarr_sink`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import zarr

from cellengine.errors import InputError
from cellengine.io.axes import AXES, Array, Layout, micrometres, name_dimensions, voxel_size
from cellengine.io.cache import SegmentCache
from cellengine.io.source import BaseSource, decoding
from cellengine.ops.threads import worker_count

_UNNAMED = "?"
_THREADS_SETTING = "threading.max_workers"


def limit_codec_threads() -> None:
    """Let zarr decode and encode on as many threads as there are processors, unless somebody chose another number.

    Its own number is four more. Each keeps a heap with what a chunk of 16 MB leaves behind.
    """
    if zarr.config.get(_THREADS_SETTING) is None:
        zarr.config.set({_THREADS_SETTING: worker_count()})


def open_image(path: Path, axes: str | None, dataset: str | None, cache_bytes: int) -> ZarrSource:
    """Open the Zarr folder at `path`; see `cellengine.io.open_source`."""
    return ZarrSource(path, axes=axes, dataset=dataset, cache_bytes=cache_bytes)


@dataclass(frozen=True, slots=True)
class _Image:
    """An array of a Zarr hierarchy and what its group says of it."""

    array: zarr.Array[Any]
    axes: tuple[str, ...]
    """a letter of TCZYX a dimension, or `_UNNAMED`"""
    sizes_um: dict[str, float | None]
    channel_names: tuple[str, ...]


class ZarrSource(BaseSource):
    """The largest array of an OME-Zarr image, or a Zarr array whose axes are given.

    Chunks are decoded in parallel and once: those that a neighbouring region may need again stay in a cache of at
    most `cache_bytes`. `dataset` is the path of an image or array inside the hierarchy (a well, a series, a label).
    """

    def __init__(self, path: Path, *, axes: str | None, dataset: str | None, cache_bytes: int) -> None:
        limit_codec_threads()
        with decoding(path.name):
            image = _find(path, dataset)
            array = image.array
            layout = Layout.of(array.shape, name_dimensions(path.name, array.shape, image.axes, axes))
            super().__init__(
                path.name,
                layout,
                np.dtype(array.dtype),
                channel_names=image.channel_names,
                voxel_size_um=voxel_size(layout.axes, image.sizes_um),
            )
        self._array = array
        stored = dict(zip(layout.stored_axes, array.chunks, strict=True))
        self.chunks = tuple(stored[axis] for axis in layout.axes)
        self._stored_dtype = np.dtype(array.dtype)
        self._chunk_bytes = prod(array.chunks) * self._stored_dtype.itemsize
        self._cache_bytes = cache_bytes
        self._cache = SegmentCache(cache_bytes)
        self._workers: ThreadPoolExecutor | None = None
        self._lock = Lock()

    def missing_chunks(self) -> int:
        """Chunks without a file: all zero, perhaps, or lost. Takes a listing of the folder."""
        with decoding(self.name):
            return int(self._array.nchunks - self._array.nchunks_initialized)

    def forget(self) -> None:
        """See `ImageSource.forget`."""
        self._cache.clear()

    def close(self) -> None:
        """Forget what was decoded."""
        super().close()
        with self._lock:
            if self._workers is not None:
                self._workers.shutdown()
                self._workers = None
        self.forget()

    def _load(self, stored: tuple[slice, ...]) -> Array:
        shape = tuple(s.stop - s.start for s in stored)
        if shape == self._array.shape or self._chunk_bytes > self._cache_bytes:
            return np.asarray(self._array[stored])
        out = np.empty(shape, self._stored_dtype)
        chunks = self._array.chunks
        hit = [range(s.start // c, -(-s.stop // c)) for s, c in zip(stored, chunks, strict=True)]
        corners = [tuple(i * c for i, c in zip(at, chunks, strict=True)) for at in product(*hit)]
        if len(corners) == 1:
            self._place(corners[0], stored, out)
        else:
            for done in [self._pool().submit(self._place, corner, stored, out) for corner in corners]:
                done.result()
        return out

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._workers is None:
                self._workers = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="zarr-read")
            return self._workers

    def _place(self, corner: tuple[int, ...], stored: tuple[slice, ...], out: Array) -> None:
        """Put the part of the chunk at `corner` that lies in `stored` into `out`, which holds `stored`."""
        ends = tuple(min(c + n, s) for c, n, s in zip(corner, self._array.chunks, self._array.shape, strict=True))
        box = tuple(slice(a, b) for a, b in zip(corner, ends, strict=True))
        chunk = self._cache.get(corner, lambda: np.asarray(self._array[box]))
        both = [slice(max(b.start, s.start), min(b.stop, s.stop)) for b, s in zip(box, stored, strict=True)]
        into = tuple(slice(o.start - s.start, o.stop - s.start) for o, s in zip(both, stored, strict=True))
        cut = tuple(slice(o.start - b.start, o.stop - b.start) for o, b in zip(both, box, strict=True))
        out[into] = chunk[cut]


def _find(path: Path, dataset: str | None) -> _Image:
    """The image in the hierarchy at `path`; InputError when there is none or no single one."""
    node: Any = zarr.open(str(path), mode="r")
    if dataset is not None:
        if isinstance(node, zarr.Array) or dataset not in node:
            raise InputError(f"{path.name}: it has no image called {dataset}; found {_listing(node)}.")
        node = node[dataset]
    if isinstance(node, zarr.Array):
        found = ("Y", "X") if node.ndim == 2 else (_UNNAMED,) * node.ndim
        return _Image(node, found, {}, ())
    attributes = dict(node.attrs)
    metadata = attributes.get("ome", attributes)
    if metadata.get("multiscales"):
        return _multiscale(node, metadata)
    if "bioformats2raw.layout" in metadata and "0" in node and "1" not in node:
        return _find(path, "0")
    arrays = [name for name, _ in node.arrays()]
    if len(arrays) == 1 and "plate" not in metadata:
        return _find(path, f"{dataset}/{arrays[0]}" if dataset else arrays[0])
    raise InputError(f"{path.name}: no single image; choose one with --dataset: {_listing(node)}.")


def _listing(node: Any) -> str:
    """The names of what a group holds, as far as one line goes."""
    if isinstance(node, zarr.Array):
        return f"one array of shape {node.shape}"
    names = sorted(name for name, _ in node.members())
    return ", ".join(names[:20]) + (" ..." if len(names) > 20 else "") if names else "nothing"


def _multiscale(group: zarr.Group, metadata: Mapping[str, Any]) -> _Image:
    """The first, largest array of the first multiscale image, as the NGFF specification orders them."""
    scales = metadata["multiscales"][0]
    array = group[scales["datasets"][0]["path"]]
    if not isinstance(array, zarr.Array):
        raise ValueError("the first dataset of the multiscale image is no array")
    axes = scales.get("axes") or list(AXES.lower())  # before version 0.3 images always had these five
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
    letters = tuple(str(name).upper() if str(name).upper() in AXES else _UNNAMED for name in names)
    if len(letters) != array.ndim:
        raise ValueError(f"{len(letters)} axes for an array of {array.ndim} dimensions")
    units = [axis.get("unit") if isinstance(axis, dict) else None for axis in axes]
    scale = _scale(scales["datasets"][0], array.ndim) * _scale(scales, array.ndim)
    sizes: dict[str, float | None] = {}
    for letter, unit, size in zip(letters, units, scale.tolist(), strict=True):
        unit_um = micrometres(unit) if unit else None
        sizes[letter] = size * unit_um if unit_um is not None else None
    channels = (metadata.get("omero") or {}).get("channels") or []
    return _Image(array, letters, sizes, tuple(str(c["label"]) for c in channels if "label" in c))


def _scale(holder: Mapping[str, Any], ndim: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The factors of the coordinate transformations in `holder`; ones where there are none."""
    scale = np.ones(ndim)
    for transformation in holder.get("coordinateTransformations") or ():
        factors: Sequence[float] | None = transformation.get("scale") if transformation.get("type") == "scale" else None
        if factors is not None:
            scale = scale * np.asarray(factors, np.float64)
    return scale
