"""What every image source has in common: the protocol, and the part that all readers share. No file formats."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import ClassVar, Protocol, Self, runtime_checkable
from xml.etree.ElementTree import ParseError

import numpy as np

from cellengine.errors import CellengineError, InputError
from cellengine.geometry import Region
from cellengine.io.axes import Array, Layout

DECODE_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    RuntimeError,
    SyntaxError,
    ParseError,
    struct.error,
)
"""What decoders raise on damaged files. Memory errors and interrupts are not among them."""


@runtime_checkable
class ImageSource(Protocol):
    """An image that is read region by region."""

    @property
    def name(self) -> str:
        """What messages call it: the file's name, or "array"."""

    @property
    def shape(self) -> tuple[int, ...]:
        """One length an axis of `axes`."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Native byte order; an integer or floating type. One-bit pictures are uint8 with values 0 and 1."""

    @property
    def axes(self) -> str:
        """A subsequence of "TCZYX" with Y and X. T, C and Z of length 1 are dropped; RGB samples are C."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """Regions that are multiples of this, one length an axis, are read fastest."""

    @property
    def channel_names(self) -> tuple[str, ...]:
        """One name a channel, or empty where the file names none."""

    @property
    def is_rgb(self) -> bool:
        """Whether C holds red, green and blue of a colour picture."""

    @property
    def voxel_size_um(self) -> tuple[float, ...] | None:
        """Micrometres per voxel for each spatial axis in `axes`, in Z, Y, X order; None unless all are known."""

    def read(self, region: Region) -> Array:
        """The voxels of `region`, which lies inside the image. Any thread may call it at any time.

        The array may be a strided view (a colour picture is stored Y, X, C and given out C, Y, X), and of an in-memory
        source a view of the original: copy before writing into it. Raises InputError for what cannot be read.
        """

    def missing_chunks(self) -> int:
        """How many stored pieces are absent and read as the fill value; it may be right, so it is only counted."""

    def forget(self) -> None:
        """Let go of what is kept decoded for neighbouring regions: the next ones lie elsewhere, or come much later."""

    def close(self) -> None:
        """Free files and caches; reading afterwards is an error."""

    def __enter__(self) -> Self:
        """The source itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


class BaseSource(ABC):
    """The part of a source that does not depend on the format: axes, checks, errors."""

    _errors: ClassVar[tuple[type[Exception], ...]] = DECODE_ERRORS
    """what reading may raise on a damaged file"""

    def __init__(
        self,
        name: str,
        layout: Layout,
        dtype: np.dtype[np.generic],
        *,
        channel_names: tuple[str, ...] = (),
        is_rgb: bool = False,
        voxel_size_um: tuple[float, ...] | None = None,
    ) -> None:
        if 0 in layout.shape:
            raise InputError(f"{name}: the image is empty, its shape is {layout.shape} ({layout.axes}).")
        channels = layout.shape[layout.axes.index("C")] if "C" in layout.axes else 1
        self.name = name
        self.layout = layout
        self.shape = layout.shape
        self.axes = layout.axes
        self.chunks = (*(1,) * (len(layout.shape) - 1), layout.shape[-1])
        self.dtype = pixel_dtype(name, dtype)
        self.is_rgb = is_rgb and channels == 3
        self.channel_names = ("red", "green", "blue") if self.is_rgb else channel_names
        if len(self.channel_names) != channels:
            self.channel_names = ()
        self.voxel_size_um = voxel_size_um
        self._closed = False

    def read(self, region: Region) -> Array:
        """See `ImageSource.read`."""
        if self._closed:
            raise ValueError(f"{self.name} is closed.")
        if len(region.start) != len(self.shape) or not Region.whole(self.shape).contains(region):
            raise ValueError(f"{region} is not inside an image of shape {self.shape} ({self.axes}).")
        with decoding(self.name, self._errors):
            block = self._load(self.layout.stored(region))
        if block.dtype != self.dtype:
            block = block.astype(self.dtype)
        return self.layout.arrange(block)

    @abstractmethod
    def _load(self, stored: tuple[slice, ...]) -> Array:
        """The stored block; one slice and one dimension for each stored dimension, none empty by themselves."""

    def missing_chunks(self) -> int:
        """See `ImageSource.missing_chunks`: formats that always store everything have none."""
        return 0

    def forget(self) -> None:  # noqa: B027
        """See `ImageSource.forget`: formats that keep nothing have nothing to do."""

    def close(self) -> None:
        """See `ImageSource.close`."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def pixel_dtype(name: str, dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """The type in which a source of stored `dtype` gives out its voxels, or InputError for what is no picture."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise InputError(f"{name}: pixels of type {dtype}; expected integers or floating-point numbers.")
    return dtype.newbyteorder("=")


@contextmanager
def decoding(name: str, errors: tuple[type[Exception], ...] = DECODE_ERRORS) -> Iterator[None]:
    """Turn what a decoder raises on a damaged file into a one-line InputError that names the file."""
    try:
        yield
    except (CellengineError, MemoryError):
        raise
    except errors as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"{name}: cannot be read ({detail}); the file is damaged, incomplete or of an unsupported kind."
        ) from error
