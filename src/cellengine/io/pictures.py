"""PNG, JPEG and BMP as sources. They can only be decoded whole, so the first read decodes and keeps the picture.

Pillow (which imageio uses for these formats) is called directly: the kind of pixels and the claimed size have to be
known before anything is decoded, and it reads PNGs of 16-bit colour at 8 bit, for which imagecodecs is used instead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock

import imagecodecs
import numpy as np
from PIL import BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin

from cellengine.errors import InputError
from cellengine.io.axes import Array, Layout, name_dimensions
from cellengine.io.source import BaseSource, decoding

# The classes themselves, not PIL.Image.open: its limit of 178 megapixels is one for web servers.
_KINDS: dict[bytes, tuple[Callable[[Path], ImageFile.ImageFile], float]] = {
    b"\x89PNG": (PngImagePlugin.PngImageFile, 1100.0),
    b"\xff\xd8\xff": (JpegImagePlugin.JpegImageFile, 3000.0),
    b"BM": (BmpImagePlugin.BmpImageFile, 130.0),
}
"""first bytes of a file -> its reader, and the most bytes of pixels that one stored byte can make"""
_PNG_DEPTH, _PNG_COLOUR, _PNG_GREYS = 24, 25, (0, 4)
"""where a PNG says how many bits a sample has and of what kind its pixels are; grey, and grey with alpha"""
_GREY, _COLOUR = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "F"), ("RGB", "RGBA", "RGBa", "RGBX", "YCbCr")


def open_image(path: Path, axes: str | None, dataset: str | None, cache_bytes: int) -> PictureSource:
    """Open the picture at `path`; there is nothing to choose (`dataset`) or to cache in it."""
    return PictureSource(path, axes=axes)


class PictureSource(BaseSource):
    """A grey (YX) or colour (CYX, RGB) picture.

    Alpha is left out whatever it holds: a picture's cells do not depend on how it is laid over a web page. A palette is
    applied; one of greys makes a grey picture. Sixteen-bit pixels keep their values, one-bit ones are 0 and 1.
    The orientation noted by cameras (EXIF) is not applied: coordinates are those of the stored pixels.
    """

    def __init__(self, path: Path, *, axes: str | None) -> None:
        with decoding(path.name), path.open("rb") as file:
            start = file.read(32)
        kind = next((k for k in _KINDS if start.startswith(k)), None)
        if kind is None:
            raise InputError(f"{path.name}: not a PNG, JPEG or BMP file by its first bytes; it is damaged or misnamed.")
        open_file, ratio = _KINDS[kind]
        with decoding(path.name), open_file(path) as picture:
            mode, (width, height) = picture.mode, picture.size
            deep = kind == b"\x89PNG" and start[_PNG_DEPTH] == 16
            grey = start[_PNG_COLOUR] in _PNG_GREYS if deep else mode in _GREY or (mode == "P" and _is_grey(picture))
            if not grey and mode != "P" and mode not in _COLOUR:
                raise InputError(
                    f"{path.name}: pixels of kind {mode}; expected grey, RGB or a palette: save it as RGB."
                )
        dtype = np.dtype(np.uint16 if deep else {"I": np.int32, "F": np.float32}.get(mode, np.uint8))
        size = path.stat().st_size
        claimed = width * height * (1 if grey else 3) * dtype.itemsize
        if claimed > size * ratio:
            raise InputError(
                f"{path.name}: it claims {width} x {height} pixels, which its {size} bytes cannot hold; it is damaged."
            )
        found, shape = (["Y", "X"], (height, width)) if grey else (["Y", "X", "C"], (height, width, 3))
        layout = Layout.of(shape, name_dimensions(path.name, shape, found, axes))
        super().__init__(path.name, layout, dtype, is_rgb=not grey)
        self._path, self._open, self._grey, self._deep = path, open_file, grey, deep
        self._pixels: Array | None = None
        self._lock = Lock()

    def _load(self, stored: tuple[slice, ...]) -> Array:
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
            return self._pixels[stored]

    def _decode(self) -> Array:
        if self._deep:
            pixels = np.asarray(imagecodecs.png_decode(self._path.read_bytes()))
            return (pixels if pixels.ndim == 2 else pixels[..., 0]) if self._grey else pixels[..., :3]
        with self._open(self._path) as picture:
            picture.load()
            plain = (
                picture
                if picture.mode in ("1", "L", "RGB", "I", "F")
                else picture.convert("L" if self._grey else "RGB")
            )
            pixels = np.asarray(plain)
        return pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels

    def close(self) -> None:
        """Forget the pixels."""
        super().close()
        self._pixels = None


def _is_grey(picture: ImageFile.ImageFile) -> bool:
    """Whether every colour of the palette is a grey."""
    palette = np.array(picture.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())
