"""What a running model is to the engine: the Session protocol, and the gate that every session here shares. No runtime.

The torch session of `models` fits the protocol without importing it, so that validation during training runs the
production engine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from cellengine.errors import InputError, ModelError, ResourceError
from cellengine.spec import ModelSpec

Outputs = dict[str, NDArray[np.float32]]
Halo = tuple[int, ...]
"""px per spatial axis, on both sides of a tile"""


class OutOfMemory(ResourceError):
    """A batch does not fit into the memory of the device: a smaller one may."""


class Session(Protocol):
    """A model on a device in a precision, ready to answer."""

    spec: ModelSpec
    backend: str
    """`onnxruntime`, `openvino`, ... or `torch`"""
    device: str
    """`cpu`, `cuda:0`, ..."""
    precision: str
    """`fp32`, `bf16`, `fp16` or `int8`: what the arithmetic is really done in"""
    concurrency: int
    """how many threads may usefully call `run` at once; further callers wait"""

    def run(self, batch: NDArray[np.float32], halo: Halo | None = None) -> Outputs:
        """Answer a batch.

        `batch` is float32, (N, channels, *tile), with sides that are multiples of `spec.divisor`. The answer has one
        float32 array per output of the spec, by its name: (N, c, *tile) for maps, (N, c) for classes. With a `halo`
        the answer is for the core alone, maps of (N, c, *tile - 2 halo), and what only the halo needs may be left out
        of the computation. The arrays belong to the caller. Safe from any number of threads. The same batch gives the
        same bits.

        Raises InputError for a batch of another shape, OutOfMemory when it does not fit into the device, ModelError
        when the graph fails on it, ValueError after `close`.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """The provider really used, versions, threads and streams, for run.json. Plain data."""
        ...

    def close(self) -> None:
        """Give back the memory once running calls are done; a second call does nothing."""
        ...

    def __enter__(self) -> Self:
        """The session itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        ...


def batches_on_a_device(session: Session) -> int:
    """How many batches one device of a session holds at a time: one that has several tells their number, `devices`."""
    return max(1, session.concurrency // int(getattr(session, "devices", 1)))


def core_of(outputs: Outputs, halo: Halo | None, cut: Halo | None = None) -> Outputs:
    """What lies inside of the halo, of which `cut` is off already, as views."""
    if halo is None or halo == cut:
        return outputs
    left = [h - c for h, c in zip(halo, cut or (0,) * len(halo), strict=True)]
    sides = next(iter(outputs.values())).shape[2:]
    core = (slice(None), slice(None), *(slice(a, n - a) for a, n in zip(left, sides, strict=True)))
    return {name: values[core] for name, values in outputs.items()}


def has_core(halo: Halo, sides: tuple[int, ...]) -> bool:
    """Whether something of a tile lies inside of the halo."""
    return len(halo) == len(sides) and all(0 <= 2 * h < n for h, n in zip(halo, sides, strict=True))


def check_batch(batch: NDArray[np.float32], spec: ModelSpec, halo: Halo | None = None) -> NDArray[np.float32]:
    """`batch`, writeable and in C order, when a network of `spec` takes it; otherwise InputError."""
    if batch.ndim != 2 + len(spec.axes):
        raise InputError(
            f"A batch of shape {batch.shape} does not fit: {spec.name} takes (N, C, {', '.join(spec.axes)})."
        )
    if batch.dtype != np.float32:
        raise InputError(f"A batch of {batch.dtype} does not fit: {spec.name} takes float32.")
    if batch.shape[1] != len(spec.channels):
        raise InputError(
            f"Found {batch.shape[1]} channels, {spec.name} takes {len(spec.channels)} ({', '.join(spec.channels)}): "
            "choose among the picture's channels with --channel."
        )
    if batch.shape[0] == 0 or any(n == 0 or n % d for n, d in zip(batch.shape[2:], spec.divisor, strict=True)):
        raise InputError(
            f"A batch of shape {batch.shape} does not fit: it must not be empty, "
            f"and {spec.name} takes sides that are multiples of {spec.divisor}."
        )
    if halo is not None and not (spec.answers_voxels and has_core(halo, batch.shape[2:])):
        raise InputError(f"A batch of shape {batch.shape} has no core in a halo of {halo} for {spec.name}.")
    # runtimes take the memory as it is, and refuse read-only memory even when they only read
    return np.require(batch, requirements=["C", "A", "W"])


_MEMORY_SIGNS = ("alloc", "out of memory", "not enough memory", "insufficient memory")
"""in the messages with which runtimes report exhausted memory: bad_alloc, Failed to allocate, ALLOC_FAILED, ..."""


def lacks_memory(error: Exception) -> bool:
    """Whether a runtime failed for lack of memory: only what says so counts."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _MEMORY_SIGNS)


def run_error(error: Exception, session: Session, shape: tuple[int, ...]) -> OutOfMemory | ModelError:
    """The error to raise when a runtime failed on a batch of `shape`."""
    reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
    if lacks_memory(error):
        return OutOfMemory(
            f"A batch of {shape} does not fit into the memory of {session.device} ({session.backend}: {reason}): "
            "take a smaller --batch or --tile."
        )
    return ModelError(f"{session.spec.name} fails on a batch of {shape} in {session.backend} ({reason}).")


class Gate:
    """Lets `width` callers in at once and none after `close`, which waits until the last one is out."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._inside = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Wait for a place and hold it. Raises ValueError once the gate is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._inside < self._width)
            if self._closed:
                raise ValueError("The session is closed: open it again with open_session.")
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Turn callers away from now on, and return when nobody is inside."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._inside == 0)
