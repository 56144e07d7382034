"""TIFF in all its kinds as a source: OME-TIFF, ImageJ, BigTIFF, STK, tiled, striped, pyramids (the full size is read).

tifffile reads the directories and knows how to decode a strip or tile; which of them a region needs, and that each is
decoded once, is decided here. Colour maps are a matter of display and are not applied.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import ceil, prod
from pathlib import Path
from threading import Lock

import numpy as np
import tifffile

from cellengine.errors import InputError
from cellengine.io.axes import Array, Layout, name_dimensions, voxel_size
from cellengine.io.cache import FilePool, SegmentCache
from cellengine.io.source import BaseSource, decoding, pixel_dtype
from cellengine.io.tiff_check import Plane, check_directories, check_planes
from cellengine.io.tiff_meta import channel_names, check_promises, pick_series, voxel_sizes_um

# What tifffile logs about damaged files is checked here and raised as errors; nobody needs to see it twice.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_RGB, _SEPARATED, _YCBCR = 2, 5, 6
_ALPHA = (1, 2)
_JPEG = (6, 7, 34892, 33007)
_STRIP_OF_ROWS = 8 << 20
"""bytes read at once when whole rows are cheaper to read than the part of them that is wanted"""


def open_image(path: Path, axes: str | None, dataset: str | None, cache_bytes: int) -> TiffSource:
    """Open the TIFF at `path`; see `cellengine.io.open_source`."""
    return TiffSource(path, axes=axes, dataset=dataset, cache_bytes=cache_bytes)


@dataclass(frozen=True, slots=True)
class _Grid:
    """How a page is cut into strips or tiles, in tifffile's five page dimensions."""

    page: tuple[int, ...]
    """planar samples, depth, height, width, interleaved samples"""
    segment: tuple[int, ...]
    """size of a strip or tile in the same dimensions"""

    @classmethod
    def of(cls, page: tifffile.TiffPage) -> _Grid:
        """The grid of every page that shares the keyframe `page`."""
        shaped = tuple(page.shaped)
        if page.is_tiled:
            segment = (1, page.tiledepth, page.tilelength, page.tilewidth, shaped[4])
        else:
            segment = (1, 1, min(page.rowsperstrip or shaped[2], shaped[2]), shaped[3], shaped[4])
        return cls(shaped, segment)

    @property
    def counts(self) -> tuple[int, ...]:
        """Segments along each dimension."""
        return tuple(ceil(n / s) for n, s in zip(self.page, self.segment, strict=True))

    def touching(self, region: tuple[slice, ...]) -> Iterator[int]:
        """Numbers of the segments that hold part of `region`."""
        hit = (range(r.start // s, ceil(r.stop / s)) for r, s in zip(region, self.segment, strict=True))
        for at in product(*hit):
            number = 0
            for i, n in zip(at, self.counts, strict=True):
                number = number * n + i
            yield number

    def region(self, axes: str, slices: tuple[slice, ...]) -> tuple[slice, ...]:
        """The page region of `slices`, which has one slice a letter of the page's `axes`."""
        region = [slice(0, n) for n in self.page]
        for i, (axis, part) in enumerate(zip(axes, slices, strict=True)):
            planar = axis == "S" and i < len(axes) - 1
            region[0 if planar else {"Z": 1, "Y": 2, "X": 3, "S": 4}[axis]] = part
        return tuple(region)


class TiffSource(BaseSource):
    """One image of a TIFF file, or of the several files of one OME-TIFF.

    Opening reads the directories only. Reading a region decodes the strips and tiles it touches, in parallel; those
    that a neighbouring region may need again stay in a cache of at most `cache_bytes`. Reading the whole image at
    once bypasses the cache. A strip or tile is decoded as a whole, so memory is at least one of them a thread.
    """

    def __init__(self, path: Path, *, axes: str | None, dataset: str | None, cache_bytes: int) -> None:
        with decoding(path.name):
            check_directories(path)
            with tifffile.TiffFile(path) as tif:
                self._open_series(tif, path, axes, dataset)
        self._files = FilePool()
        self._cache = SegmentCache(cache_bytes)
        self._workers: ThreadPoolExecutor | None = None
        self._lock = Lock()

    def _open_series(self, tif: tifffile.TiffFile, path: Path, axes: str | None, dataset: str | None) -> None:
        """Take over from tifffile what is needed to read without it, after checking that all of it can be read."""
        series = pick_series(tif, path.name, dataset)
        check_promises(tif, series, path.name)
        page = series.keyframe
        shape, letters = tuple(series.get_shape(squeeze=True)), str(series.get_axes(squeeze=True))
        _check_kind(path.name, series, shape, letters)
        stored_axes = name_dimensions(path.name, shape, letters.replace("S", "C"), axes)
        samples_are_channels = "S" in letters and stored_axes[letters.index("S")] == "C"
        layout = Layout.of(shape, stored_axes, _colours(page) if samples_are_channels else None)
        super().__init__(
            path.name,
            layout,
            np.dtype(page.dtype),
            channel_names=channel_names(tif, series),
            is_rgb=samples_are_channels and page.photometric in (_RGB, _YCBCR),
            voxel_size_um=voxel_size(layout.axes, voxel_sizes_um(tif, series)),
        )
        self._page, self._grid = page, _Grid.of(page)
        self._stored_shape, self._stored_dtype = shape, np.dtype(page.dtype)
        self._lead = shape[: len(shape) - len(page.shape)]
        self._swapped = page.parent.byteorder != tifffile.tifffile.NATIVE_BYTEORDER
        self._planes = _planes_of(series, prod(self._lead), path.name)
        sizes = [prod(part) * page.bitspersample // 8 for part in (self._grid.page, self._grid.segment)]
        check_planes(path.name, self._planes, sizes[0], sizes[1], page.compression)
        page.init_decode()

    def missing_chunks(self) -> int:
        """Strips and tiles that the file leaves out; they read as its fill value."""
        return sum(plane.missing for plane in self._planes)

    def forget(self) -> None:
        """See `ImageSource.forget`."""
        self._cache.clear()

    def close(self) -> None:
        """Close the files, forget what was decoded."""
        super().close()
        with self._lock:
            if self._workers is not None:
                self._workers.shutdown()
                self._workers = None
        self._files.close()
        self.forget()

    def _load(self, stored: tuple[slice, ...]) -> Array:
        lead, inner = stored[: len(self._lead)], stored[len(self._lead) :]
        region = self._grid.region(str(self._page.axes), inner)
        out = np.empty([s.stop - s.start for s in stored], self._stored_dtype)
        targets = out.reshape(-1, *(s.stop - s.start for s in region))
        whole = out.shape == self._stored_shape
        numbers = (
            np.ravel_multi_index(np.ix_(*(range(s.start, s.stop) for s in lead)), self._lead) if lead else np.zeros(1)
        )
        jobs = []
        for number, target in zip(np.ravel(numbers).astype(int).tolist(), targets, strict=True):
            if self._planes[number].contiguous:
                self._read_contiguous(self._planes[number], region, target)
            else:
                place = partial(self._place, number, region, target, keep=not whole)
                jobs += [partial(place, segment) for segment in self._grid.touching(region)]
        self._run(jobs)
        return out

    def _run(self, jobs: list[partial[None]]) -> None:
        if len(jobs) < 2:
            for job in jobs:
                job()
            return
        with self._lock:
            if self._workers is None:
                self._workers = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="decode")
            workers = self._workers
        for done in [workers.submit(job) for job in jobs]:
            done.result()

    def _place(self, number: int, region: tuple[slice, ...], target: Array, segment: int, *, keep: bool) -> None:
        """Put the part of one strip or tile that lies in `region` into `target`, which holds `region`."""
        index, block = self._decoded(number, segment, keep)
        into, cut = [], []
        for want, at, n in zip(region, index, block.shape, strict=True):
            start, stop = max(want.start, at), min(want.stop, at + n)
            into.append(slice(start - want.start, stop - want.start))
            cut.append(slice(start - at, stop - at))
        target[tuple(into)] = block[tuple(cut)]

    def _decoded(self, number: int, segment: int, keep: bool) -> tuple[tuple[int, ...], Array]:
        """Where a strip or tile begins in its page, and its pixels in the five page dimensions."""
        index = tuple(
            int(i) * s for i, s in zip(np.unravel_index(segment, self._grid.counts), self._grid.segment, strict=True)
        )
        make = partial(self._decode, number, segment)
        return index, self._cache.get((number, segment), make) if keep else make()

    def _decode(self, number: int, segment: int) -> Array:
        plane = self._planes[number]
        offset, count = plane.offsets[segment], plane.counts[segment]
        if not (offset and count):
            return np.full(self._grid.segment, self._page.nodata, self._stored_dtype)
        extra = (
            {"jpegtables": plane.tables, "jpegheader": self._page.jpegheader} if self._page.compression in _JPEG else {}
        )
        data, _, _ = self._page.decode(bytes(self._files.read(plane.path, offset, count)), segment, **extra)
        if data is None:
            raise ValueError(f"strip or tile {segment} holds nothing")
        return np.asarray(data)[None]

    def _read_contiguous(self, plane: Plane, region: tuple[slice, ...], target: Array) -> None:
        """Read pixels that are stored ready, row by row or in runs of whole rows."""
        samples, depth, rows, columns, interleaved = region
        _, depths, height, width, per_pixel = self._grid.page
        row_bytes = width * per_pixel * self._stored_dtype.itemsize
        wide = 2 * (columns.stop - columns.start) >= width
        whole_rows = target.shape[3:] == (width, per_pixel)
        for s, d in product(range(samples.start, samples.stop), range(depth.start, depth.stop)):
            part = target[s - samples.start, d - depth.start]
            first = plane.offsets[0] + ((s * depths + d) * height + rows.start) * row_bytes
            if whole_rows:
                self._files.read_into(plane.path, [(first, _bytes_of(part))])
            elif wide or interleaved.stop - interleaved.start < per_pixel:
                self._read_runs(plane.path, first, part, columns, interleaved)
            else:
                skip = columns.start * per_pixel * self._stored_dtype.itemsize
                self._files.read_into(
                    plane.path, [(first + skip + i * row_bytes, _bytes_of(row)) for i, row in enumerate(part)]
                )
        if self._swapped:
            target.byteswap(inplace=True)

    def _read_runs(self, path: Path, first: int, part: Array, columns: slice, interleaved: slice) -> None:
        """Read whole rows, some megabytes at a time, and keep the wanted columns and samples."""
        width, per_pixel = self._grid.page[3:]
        row_bytes = width * per_pixel * self._stored_dtype.itemsize
        run = max(1, _STRIP_OF_ROWS // row_bytes)
        buffer = np.empty((min(run, len(part)), width, per_pixel), self._stored_dtype)
        for start in range(0, len(part), run):
            rows = buffer[: len(part) - start]
            self._files.read_into(path, [(first + start * row_bytes, _bytes_of(rows))])
            part[start : start + len(rows)] = rows[:, columns, interleaved]


def _bytes_of(array: Array) -> memoryview:
    """The bytes of a contiguous array, to be filled."""
    return array.reshape(-1).view(np.uint8).data


def _check_kind(name: str, series: tifffile.TiffPageSeries, shape: tuple[int, ...], letters: str) -> None:
    """InputError for TIFFs whose pages are not planes of grey or colour pixels."""
    page = series.keyframe
    if page.dtype is None:
        raise InputError(
            f"{name}: pixels of {page.bitspersample} bits in an unknown format; expected integers or floats."
        )
    pixel_dtype(name, np.dtype(page.dtype))
    if page.photometric == _SEPARATED:
        raise InputError(f"{name}: a CMYK picture; expected grey or RGB: save it as RGB.")
    if "S" in letters and "C" in letters:
        raise InputError(f"{name}: axes {letters} {shape}, several channels of colour pictures; save each by itself.")
    if series.transform is not None or tuple(page.shape) != shape[len(shape) - len(page.shape) :]:
        raise InputError(
            f"{name}: pages of shape {tuple(page.shape)} make an image of {shape} in a way that is not known."
        )


def _colours(page: tifffile.TiffPage) -> int:
    """Samples per pixel without those at the end that are alpha."""
    kept = int(page.samplesperpixel)
    for kind in reversed(tuple(page.extrasamples)):
        if kind not in _ALPHA:
            break
        kept -= 1
    return kept


def _planes_of(series: tifffile.TiffPageSeries, count: int, name: str) -> list[Plane]:
    """Where the pixels of each of the `count` pages of the image lie; InputError when there are fewer."""
    page = series.keyframe
    if count > 1 and series.dataoffset is not None:  # ImageJ stores one directory for a stack of any size
        path = Path(page.parent.filehandle.path)
        step = page.nbytes
        return [Plane(path, (series.dataoffset + i * step,), (step,), None, True) for i in range(count)]
    pages = [series[i] for i in range(len(series))]
    present = [p for p in pages if p is not None and len(p.dataoffsets)]
    if len(present) != count or len(pages) != count:
        raise InputError(
            f"{name}: the image has {count} planes by its metadata, but {len(present)} are there; it is incomplete."
        )
    if any(p.keyframe is None or p.keyframe.hash != page.hash for p in present):
        raise InputError(f"{name}: its planes differ in size, type or compression; expected all alike.")
    return [_plane(p, page) for p in present]


def _plane(page: tifffile.TiffPage | tifffile.TiffFrame, keyframe: tifffile.TiffPage) -> Plane:
    offsets = tuple(int(o) for o in page.dataoffsets)
    counts = tuple(int(n) for n in page.databytecounts)
    if len(offsets) > len(counts):
        raise ValueError(f"{len(offsets)} strips or tiles with {len(counts)} sizes")
    joined = len(offsets) == 1 or all(o + n == p for o, n, p in zip(offsets, counts, offsets[1:], strict=False))
    contiguous = bool(keyframe.is_final) and (joined or bool(keyframe.is_stk or keyframe.is_lsm))
    tables = page.jpegtables
    return Plane(Path(page.parent.filehandle.path), offsets, counts[: len(offsets)], tables, contiguous)
