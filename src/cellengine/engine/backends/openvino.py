"""OpenVINO on the CPU: fp32, bf16 where the processor has it, int8. The precision is always set, never left to it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cellengine.engine.backends.exact import deciding_nodes, keep_exact
from cellengine.engine.backends.hardware import cpu_count, cpu_name, exact_int8
from cellengine.engine.backends.trim import trim, worth_cutting
from cellengine.engine.backends.whole_numbers import with_signs
from cellengine.engine.model_file import ModelFile
from cellengine.engine.recycle import Recycler
from cellengine.engine.session import Gate, Halo, OutOfMemory, Outputs, check_batch, core_of, run_error
from cellengine.errors import DeviceError, ModelError, missing_package
from cellengine.ops.spare import release_free_memory

try:
    import openvino
except ImportError as error:
    raise missing_package("openvino", "The backend openvino", "pip install openvino") from error

HINTS = {"fp32": "f32", "bf16": "bf16"}
"""precision -> arithmetic of the layers that are not int8; in an int8 file they take bf16 where the processor has it"""
THREADS_PER_STREAM = 4
"""on 2 cores one stream of two threads is as fast as two streams of one, and needs half the memory"""
SHAPES_KEPT = 4
"""compiled batch shapes: the full batch, the last one, and room for a second picture size"""


class OpenVino:
    """The backend: what it can do here, and how it opens a model."""

    name = "openvino"

    def __init__(self) -> None:
        self._core = openvino.Core()

    def version(self) -> str:
        """Version of the library."""
        return _version()

    def devices(self) -> tuple[str, ...]:
        """Only the CPU: Intel's other devices have never been tried."""
        return ("cpu",) if "CPU" in self._core.available_devices else ()

    def precisions(self, device: str) -> tuple[str, ...]:
        """Precisions the processor has; bf16 is emulated by nothing."""
        return ("fp32", "bf16", "int8") if _has_bf16(self._core) else ("fp32", "int8")

    def why_not(self, device: str, precision: str) -> str:
        """Why `device` or `precision` is not available here, and what would mend it; empty when it is."""
        if device not in self.devices():
            return "openvino runs on the cpu only; for cuda take onnxruntime"
        if precision == "bf16" and "bf16" not in self.precisions(device):
            return f"the processor {cpu_name()} has no bf16 instructions (AVX512_BF16 or AMX); take --precision fp32"
        if precision not in self.precisions(device):
            return f"openvino computes in {', '.join(self.precisions(device))} on {device}, not in {precision}"
        if precision == "int8" and not exact_int8():
            return (
                f"the processor {cpu_name()} has no VNNI instructions: int8 would overflow and find something else; "
                "take --precision fp32"
            )
        return ""

    def open(
        self, model: ModelFile, device: str, precision: str, threads: int | None, max_vram: int | None = None
    ) -> OpenVinoSession:
        """A session; see `OpenVinoSession`. Raises DeviceError for what `why_not` refuses."""
        if problem := self.why_not(device, precision):
            raise DeviceError(f"{model.spec.name} cannot run as asked: {problem}.")
        return OpenVinoSession(self._core, model, device, precision, threads)


class _Compiled:
    """The model compiled for one batch shape, with its infer requests; its answers lack `cut`."""

    def __init__(self, compiled: Any, requests: int, memory: Recycler, cut: Halo | None) -> None:
        self.cut = cut
        self.requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(requests):
            self.requests.put(compiled.create_infer_request())
        self.names = [output.any_name for output in compiled.outputs]
        self._memory = memory
        fixed = all(o.partial_shape.is_static and o.element_type == openvino.Type.f32 for o in compiled.outputs)
        self._shapes = [tuple(output.shape) for output in compiled.outputs] if fixed else None

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        request = self.requests.get()
        try:
            # the request reads the batch and writes its answers where they lie; waiting releases the interpreter lock
            request.set_input_tensor(openvino.Tensor(batch, shared_memory=True))
            if self._shapes is None:
                request.start_async()
                request.wait()
                tensors = [np.array(tensor.data, dtype=np.float32) for tensor in request.output_tensors]
                return dict(zip(self.names, tensors, strict=True))
            answers = [self._memory.empty(shape) for shape in self._shapes]
            for index, values in enumerate(answers):
                request.set_output_tensor(index, openvino.Tensor(values, shared_memory=True))
            request.start_async()
            request.wait()
            return dict(zip(self.names, answers, strict=True))
        finally:
            self.requests.put(request)


class OpenVinoSession:
    """A model in OpenVINO, compiled for each batch shape it meets (0.1-0.3 s a shape; static shapes run faster).

    Answers lie in memory of earlier ones that nobody holds any more. Streams and threads are set as numbers, which is
    what the library's hints for latency and throughput are short for.

    `threads` is the number of threads in all, by default all processors of this process. Threads are not pinned: two
    processes on a machine would otherwise share the first processors. Memory: weights and activations of each stream,
    for each of up to 4 shapes.
    """

    backend = "openvino"

    def __init__(self, core: Any, model: ModelFile, device: str, precision: str, threads: int | None = None) -> None:
        self.spec = model.spec
        self.device = device
        self.precision = precision
        self._core = core
        self._hint = HINTS.get(precision, "bf16" if _has_bf16(core) else "f32")
        self._threads = threads or cpu_count()
        self._streams = max(1, self._threads // THREADS_PER_STREAM)
        self.concurrency = self._streams + 1
        self._gate = Gate(self.concurrency)
        self._compiling = threading.Lock()
        self._compiled: OrderedDict[tuple[tuple[int, ...], Halo | None], _Compiled] = OrderedDict()
        self._content = with_signs(model.content) if model.form == "int8" else model.content
        self._trimmed: tuple[Halo | None, Any, Halo | None] = None, None, None
        """the cut that was asked for last, the model for it, and what is cut off its outputs"""
        self._memory = Recycler(2 * self.concurrency * len(model.spec.outputs))
        try:
            self._model: Any = core.read_model(self._content)
            if self._hint == "bf16" and model.spec.task == "detection":
                self._model = keep_exact(core, self._model, deciding_nodes(self._model))
        except RuntimeError as error:
            raise ModelError(
                f"{model.path}: OpenVINO cannot load it ({str(error).strip().splitlines()[-1]})."
            ) from error

    def run(self, batch: NDArray[np.float32], halo: Halo | None = None) -> Outputs:
        """See `Session.run`."""
        batch = check_batch(batch, self.spec, halo)
        with self._gate.enter():
            try:
                compiled = self._for_shape(batch.shape, None if halo is None else worth_cutting(halo, batch.shape[2:]))
                return core_of(compiled.run(batch), halo, compiled.cut)
            except (RuntimeError, MemoryError) as error:
                found = run_error(error, self, batch.shape)
                if isinstance(found, OutOfMemory):
                    error.with_traceback(None)  # its frames hold requests
                    with self._compiling:
                        self._compiled.clear()
                    release_free_memory()
                raise found from error

    def describe(self) -> dict[str, Any]:
        """See `Session.describe`."""
        return {
            "backend": self.backend,
            "version": _version(),
            "device": self.device,
            "precision": self.precision,
            "provider": f"CPU, {'int8 and ' if self.precision == 'int8' else ''}{self._hint}",
            "threads": self._threads,
            "streams": self._streams,
        }

    def close(self) -> None:
        """See `Session.close`."""
        self._gate.close()
        self._compiled.clear()
        self._memory.clear()
        self._model, self._trimmed = None, (None, None, None)

    def _for_shape(self, shape: tuple[int, ...], cut: Halo | None) -> _Compiled:
        """The model for batches of `shape`, trimmed by `cut`; the one used longest ago makes room."""
        with self._compiling:
            if (shape, cut) not in self._compiled:
                self._compiled[shape, cut] = self._compile(shape, cut)
                while len(self._compiled) > SHAPES_KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end((shape, cut))
            return self._compiled[shape, cut]

    def _compile(self, shape: tuple[int, ...], cut: Halo | None) -> _Compiled:
        settings = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "EXECUTION_MODE_HINT": "ACCURACY",
            "NUM_STREAMS": self._streams,
            "INFERENCE_NUM_THREADS": self._threads,
            "ENABLE_CPU_PINNING": False,
        }
        if cut is not None and self._trimmed[0] != cut:
            content, found = trim(self._content, cut)
            self._trimmed = cut, self._core.read_model(content), found
        model, off = (self._model, None) if cut is None else self._trimmed[1:]
        model = model.clone()
        model.reshape(list(shape))
        compiled = self._core.compile_model(model, "CPU", settings)
        kind = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if kind != self._hint:
            raise DeviceError(
                f"OpenVINO would compute in {kind}, asked for was {self._hint}: take --backend onnxruntime."
            )
        return _Compiled(compiled, self.concurrency, self._memory, off)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _has_bf16(core: Any) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _version() -> str:
    """Without the number of the build."""
    return str(openvino.__version__).partition("-")[0]
