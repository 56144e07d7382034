"""CZI, ND2 and LIF as sources, through the optional readers of bioio. The only file that imports them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from cellengine.errors import InputError, missing_package
from cellengine.io.axes import Array, Layout, name_dimensions, voxel_size
from cellengine.io.cache import SegmentCache
from cellengine.io.source import BaseSource, decoding

_PACKAGES = {".czi": "bioio_czi", ".nd2": "bioio_nd2", ".lif": "bioio_lif"}
_MOSAIC, _SAMPLES = "M", "S"


def open_image(path: Path, axes: str | None, dataset: str | None, cache_bytes: int) -> BioSource:
    """Open the CZI, ND2 or LIF at `path`; see `cellengine.io.open_source`. `dataset` is a scene: its name or number."""
    return BioSource(path, axes=axes, dataset=dataset, cache_bytes=cache_bytes)


class BioSource(BaseSource):
    """One scene of a microscope vendor's file; mosaics are stitched by the reader.

    The readers decode whole planes, one at a time (they are not all safe to call from several threads); a cache of
    at most `cache_bytes` keeps planes that a neighbouring region may need again. A colour scene is decoded whole at
    the first read, because bioio-czi repeats the first sample in what it decodes plane by plane (seen in 3.0.1).
    """

    _errors = (Exception,)

    def __init__(self, path: Path, *, axes: str | None, dataset: str | None, cache_bytes: int) -> None:
        package = _PACKAGES[path.suffix.lower()]
        try:
            module = import_module(package)
        except ImportError as error:
            command = 'pip install "cellengine[formats]"'
            raise missing_package(package.replace("_", "-"), f"{path.name}: a {path.suffix} file", command) from error
        with decoding(path.name, self._errors):
            reader = module.Reader(str(path))
            scene = _pick_scene(tuple(reader.scenes), path.name, dataset)
            reader.set_scene(scene)
            mosaic = _MOSAIC in reader.dims.order
            image = reader.mosaic_xarray_dask_data if mosaic else reader.xarray_dask_data
            letters = [str(d) for d in image.dims]
            channels = "C" if "C" in letters and image.sizes["C"] > 1 else _SAMPLES
            found = ["C" if letter == _SAMPLES == channels else letter for letter in letters]
            if _SAMPLES in found and image.sizes[_SAMPLES] > 1:
                raise InputError(
                    f"{path.name}: axes {''.join(letters)} {image.shape}, several channels of colour pictures; "
                    f"expected grey channels or one colour picture: save each by itself."
                )
            found = [_unless_single(letter, n) for letter, n in zip(found, image.shape, strict=True)]
            layout = Layout.of(image.shape, name_dimensions(path.name, image.shape, found, axes))
            super().__init__(
                path.name,
                layout,
                np.dtype(image.dtype),
                channel_names=_channel_names(reader),
                is_rgb=_SAMPLES in letters and channels == _SAMPLES,
                voxel_size_um=voxel_size(layout.axes, _sizes_um(reader)),
            )
        self._planes = image.data
        self._dtype = np.dtype(image.dtype)
        self._reader, self._whole = reader, "mosaic_xarray_data" if mosaic else "xarray_data"
        self._reversed = path.suffix.lower() == ".czi"  # its colour pixels are stored blue, green, red
        self._inner = min(letters.index("Y"), letters.index("X"))
        self._cache = SegmentCache(cache_bytes)
        self._lock = Lock()
        with decoding(path.name, self._errors):  # some scans open well, and turn out to be no planes when decoded
            self._plane((0,) * self._inner)

    def _load(self, stored: tuple[slice, ...]) -> Array:
        lead, inner = stored[: self._inner], stored[self._inner :]
        out = np.empty([s.stop - s.start for s in stored], self._dtype)
        for at in product(*(range(s.start, s.stop) for s in lead)):
            out[tuple(i - s.start for i, s in zip(at, lead, strict=True))] = self._plane(at)[inner]
        return out

    def _plane(self, at: tuple[int, ...]) -> Array:
        return self._cache.get(at, lambda: self._decode(at))

    def _decode(self, at: tuple[int, ...]) -> Array:
        with self._lock:
            if not self.is_rgb:
                return np.asarray(self._planes[at].compute(scheduler="synchronous"))
            plane = np.asarray(getattr(self._reader, self._whole).data[at])
            return plane[..., ::-1] if self._reversed else plane

    def forget(self) -> None:
        """See `ImageSource.forget`."""
        self._cache.clear()

    def close(self) -> None:
        """Forget what was decoded."""
        super().close()
        self.forget()


def _unless_single(letter: str, length: int) -> str:
    """Readers give every image an S, V or H; of length 1 they are dropped like any other."""
    return letter if length > 1 or letter in "YX" else "-"


def _pick_scene(scenes: Sequence[str], name: str, dataset: str | None) -> str:
    chosen = [s for i, s in enumerate(scenes) if dataset is None or dataset in (s, str(i))]
    if len(chosen) == 1:
        return chosen[0]
    listed = ", ".join(f"{i} ({scene})" for i, scene in enumerate(scenes))
    wanted = f"no single one is called {dataset}" if dataset is not None else "choose one with --dataset"
    raise InputError(f"{name}: the file holds {len(scenes)} scenes, {wanted}: {listed}.")


def _sizes_um(reader: Any) -> dict[str, float | None]:
    """Micrometres per voxel; nothing where the reader cannot make out the calibration."""
    with suppress(Exception):
        sizes = reader.physical_pixel_sizes
        return {"Z": sizes.Z, "Y": sizes.Y, "X": sizes.X}
    return {}


def _channel_names(reader: Any) -> tuple[str, ...]:
    with suppress(Exception):
        names = tuple(str(name) for name in reader.channel_names or ())
        return names if all(names) else ()
    return ()
