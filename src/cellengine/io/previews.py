"""Pictures to look at: PNG files, written fast. What they show is the caller's business."""

from __future__ import annotations

import os
from pathlib import Path

import imagecodecs
import numpy as np

from cellengine.io.axes import Array
from cellengine.io.sink import partial_name, writing

_LEVEL = 1
"""of deflate: four times as fast as the default, a tenth larger"""


def encode_png(pixels: Array) -> bytes:
    """A grey (height, width) or colour (height, width, 3) picture of uint8 pixels as a PNG file.

    Raises ValueError for another shape or type.
    """
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (colour or pixels.ndim == 2) or 0 in pixels.shape:
        raise ValueError(
            f"pixels of {pixels.dtype} {pixels.shape}; expected uint8 (height, width) or (height, width, 3)"
        )
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=_LEVEL))


def write_png(path: str | os.PathLike[str], pixels: Array) -> None:
    """Write a picture as `encode_png` takes it; the file appears complete. ResourceError when it cannot be written."""
    png, path = encode_png(pixels), Path(path)
    partial = partial_name(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(png)
        partial.replace(path)
