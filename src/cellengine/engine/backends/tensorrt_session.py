"""A TensorRT engine as a session: pinned memory, and two streams, so that copies overlap computing."""

from __future__ import annotations

from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cellengine.engine.backends.cuda import CudaDevice, DeviceMemory
from cellengine.engine.session import Gate, Halo, Outputs, check_batch, core_of, run_error
from cellengine.errors import InputError
from cellengine.spec import INPUT_NAME, ModelSpec

STREAMS = 2
"""one copies while the other computes"""


class TensorRtSession:
    """A built engine on a device. Memory on the device: weights, and per stream one batch with its activations."""

    backend = "tensorrt"
    concurrency = STREAMS

    def __init__(
        self,
        library: Any,
        engine: Any,
        place: CudaDevice,
        spec: ModelSpec,
        device: str,
        precision: str,
        max_vram: int | None,
        version: str,
    ) -> None:
        self.spec = spec
        self.device = device
        self.precision = precision
        self._version = version
        self._place = place
        self._engine = engine
        self._gate = Gate(STREAMS)
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        share = None if max_vram is None else max_vram // STREAMS
        self._all = [_Lane(library, engine, place, share) for _ in range(STREAMS)]
        for lane in self._all:
            self._lanes.put(lane)
        self._largest = tuple(engine.get_tensor_profile_shape(INPUT_NAME, 0)[2])

    def run(self, batch: NDArray[np.float32], halo: Halo | None = None) -> Outputs:
        """See `Session.run`; the whole tile is computed.

        Raises InputError for a batch beyond what the engine was built for.
        """
        batch = check_batch(batch, self.spec, halo)
        if any(n > most for n, most in zip(batch.shape, self._largest, strict=True)):
            raise InputError(
                f"A batch of {batch.shape} does not fit: the engine takes up to {self._largest}; "
                "take a smaller --tile or --batch."
            )
        with self._gate.enter():
            lane = self._lanes.get()
            try:
                return core_of(lane.run(batch), halo)
            except (MemoryError, RuntimeError) as error:
                raise run_error(error, self, batch.shape) from error
            finally:
                self._lanes.put(lane)

    def describe(self) -> dict[str, Any]:
        """See `Session.describe`."""
        return {
            "backend": self.backend,
            "version": self._version,
            "device": self.device,
            "precision": self.precision,
            "provider": f"{self._place.name}, compute capability {self._place.capability}",
            "threads": 1,
            "streams": STREAMS,
        }

    def close(self) -> None:
        """See `Session.close`."""
        self._gate.close()
        for lane in self._all:
            lane.close()
        self._all.clear()
        self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Lane:
    """A stream with its own context and memory."""

    def __init__(self, library: Any, engine: Any, place: CudaDevice, limit: int | None) -> None:
        self._place = place
        self._memory = DeviceMemory(place, limit)
        # the scratch memory is ours, so that it follows the batch at hand and not the largest one
        self._context = engine.create_execution_context(library.ExecutionContextAllocationStrategy.USER_MANAGED)
        self._stream = place.stream()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._outputs = [name for name in names if name != INPUT_NAME]

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        place, memory, context, stream = self._place, self._memory, self._context, self._stream
        place.enter()
        context.set_input_shape(INPUT_NAME, batch.shape)
        host, pinned = memory.pinned(INPUT_NAME, batch.nbytes)
        pinned[: batch.nbytes].view(np.float32)[:] = batch.reshape(-1)
        address = memory.buffer(INPUT_NAME, batch.nbytes)
        place.to_device(address, host, batch.nbytes, stream)
        context.set_tensor_address(INPUT_NAME, address)
        shapes = {name: tuple(context.get_tensor_shape(name)) for name in self._outputs}
        sizes = {name: 4 * int(np.prod(shape, dtype=np.int64)) for name, shape in shapes.items()}
        for name, size in sizes.items():
            context.set_tensor_address(name, memory.buffer(name, size))
        scratch = int(context.update_device_memory_size_for_shapes())
        context.set_device_memory(memory.buffer("scratch", scratch), scratch)
        if not context.execute_async_v3(stream):
            raise RuntimeError("execute_async_v3 failed")
        landed = {}
        for name, size in sizes.items():
            where, landed[name] = memory.pinned(name, size)
            place.to_host(where, memory.buffer(name, size), size, stream)
        place.wait(stream)
        return {n: landed[n][: sizes[n]].view(np.float32).reshape(shape).copy() for n, shape in shapes.items()}

    def close(self) -> None:
        self._place.enter()
        self._context = None
        self._memory.release()
        self._place.destroy_stream(self._stream)
