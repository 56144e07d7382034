"""onnxruntime: CPU in exact fp32 or int8, CUDA when asked for. Every other provider is somebody else's."""

from __future__ import annotations

import io
import threading
from contextlib import redirect_stdout
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cellengine.engine.backends.hardware import cpu_count, cuda_devices, exact_int8
from cellengine.engine.backends.trim import trim, worth_cutting
from cellengine.engine.backends.wheels import both_wheels
from cellengine.engine.backends.whole_numbers import cutting_whole_numbers
from cellengine.engine.model_file import ModelFile
from cellengine.engine.recycle import Recycler
from cellengine.engine.session import Gate, Halo, OutOfMemory, Outputs, check_batch, core_of, lacks_memory, run_error
from cellengine.errors import DeviceError, ModelError, ResourceError, missing_package
from cellengine.ops.spare import release_free_memory
from cellengine.spec import INPUT_NAME, ModelSpec

try:
    import onnxruntime
except ImportError as error:
    raise missing_package("onnxruntime", "The backend onnxruntime", "pip install onnxruntime") from error

CUDA_INSTALL = "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
NO_VNNI = (
    "the processor has no VNNI instructions: int8 would overflow on others and find something else; "
    "take --precision fp32"
)
HEAVY = frozenset({"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "NhwcConv", "GroupConv"})
CONCURRENCY = 2
"""one caller computes while another copies its tiles in and out; more only cost memory"""


class OnnxRuntime:
    """The backend: what it can do here, and how it opens a model."""

    name = "onnxruntime"

    def version(self) -> str:
        """Version of the library."""
        return str(onnxruntime.__version__)

    def devices(self) -> tuple[str, ...]:
        """Devices that are present and that this build of the library can use."""
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return ("cpu",)
        return ("cpu", *(f"cuda:{i}" for i in range(cuda_devices())))

    def precisions(self, device: str) -> tuple[str, ...]:
        """Precisions the device computes in: on a CPU there is no bf16, and fp16 gains nothing."""
        return ("fp32", "int8") if device == "cpu" else ("fp32", "fp16", "int8")

    def why_not(self, device: str, precision: str) -> str:
        """Why `device` or `precision` is not available here, and what would mend it; empty when it is."""
        if device.startswith("cuda") and device not in self.devices():
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                return both_wheels() or f"this onnxruntime is built without CUDA: run `{CUDA_INSTALL}`"
            return f"the NVIDIA driver offers {cuda_devices()} devices: see nvidia-smi, or take --device cpu"
        if device not in self.devices():
            return f"onnxruntime runs on {', '.join(self.devices())} here"
        if precision not in self.precisions(device):
            return f"onnxruntime computes in {', '.join(self.precisions(device))} on {device}, not in {precision}"
        if precision == "int8" and device == "cpu" and not exact_int8():
            return NO_VNNI
        return ""

    def open(
        self, model: ModelFile, device: str, precision: str, threads: int | None, max_vram: int | None = None
    ) -> OnnxRuntimeSession:
        """A session; see `OnnxRuntimeSession`. Raises DeviceError for what `why_not` refuses."""
        if problem := self.why_not(device, precision):
            raise DeviceError(f"{model.spec.name} cannot run as asked: {problem}.")
        return OnnxRuntimeSession(model, device, precision, threads, max_vram)


class OnnxRuntimeSession:
    """A model in onnxruntime. fp32 is IEEE single precision: on CUDA TF32 is off.

    `threads` is the number of threads of one run, by default all processors of this process. Threads sleep while they
    wait: spinning ones took 1.8 times as long on 2 cores that had other work, such as the engine's own post-processing.
    Answers lie in memory of earlier ones that nobody holds any more. `max_vram`: bytes that the library's arena may
    take on a GPU; it is extended by what is needed, not doubled. Memory: the activations of up to two batches.
    """

    backend = "onnxruntime"
    concurrency = CONCURRENCY

    def __init__(
        self,
        model: ModelFile,
        device: str,
        precision: str,
        threads: int | None = None,
        max_vram: int | None = None,
    ) -> None:
        self.spec = model.spec
        self.device = device
        self.precision = precision
        self._threads = threads or cpu_count()
        # on a CPU one run at a time has all cores: two took 10 % longer, and twice the memory to touch and to hold
        self._gate = Gate(1 if device == "cpu" else CONCURRENCY)
        self._model, self._max_vram = model, max_vram
        self._content = model.content
        if model.form == "int8" and device == "cpu":  # a GPU has no maximum of bytes
            self._content = cutting_whole_numbers(model.content)
        self._opening = threading.Lock()
        self._session: Any = None
        self._wanted: Halo | None = None
        self._cut: Halo | None = None
        session, _ = self._session_for(None)
        self._names = [output.name for output in session.get_outputs()]
        self._channels = _map_channels(session, self.spec)
        self._memory = Recycler(len(self._names) * (CONCURRENCY + 1))

    def run(self, batch: NDArray[np.float32], halo: Halo | None = None) -> Outputs:
        """See `Session.run`."""
        batch = check_batch(batch, self.spec, halo)
        with self._gate.enter():
            session, cut = self._session_for(self._wanted_cut(halo, batch.shape[2:]))
            try:
                if self._channels is None:
                    values = session.run(self._names, {INPUT_NAME: batch})
                    found = {n: np.asarray(v, dtype=np.float32) for n, v in zip(self._names, values, strict=True)}
                else:
                    found = self._run_bound(session, batch, self._channels, cut or (0,) * (batch.ndim - 2))
                return core_of(found, halo, cut)
            except Exception as error:
                problem = run_error(error, self, batch.shape)
                if isinstance(problem, OutOfMemory):
                    session = None
                    error.with_traceback(None)  # its frames hold the session and the batch's answers
                    self._let_go()
                raise problem from error

    def _run_bound(self, session: Any, batch: NDArray[np.float32], channels: dict[str, int], cut: Halo) -> Outputs:
        """Run with the outputs written straight to where the caller reads them."""
        binding = session.io_binding()
        binding.bind_cpu_input(INPUT_NAME, batch)
        core = tuple(n - 2 * h for n, h in zip(batch.shape[2:], cut, strict=True))
        outputs = {name: self._memory.empty((len(batch), channels[name], *core)) for name in self._names}
        for name, values in outputs.items():
            binding.bind_output(name, "cpu", 0, np.float32, values.shape, values.ctypes.data)
        session.run_with_iobinding(binding)
        return outputs

    def _wanted_cut(self, halo: Halo | None, sides: tuple[int, ...]) -> Halo | None:
        """What to trim the model by. On a GPU it does not depend on the tile, so that one model is loaded at a time."""
        return halo if halo is None or self.device != "cpu" else worth_cutting(halo, sides)

    def _session_for(self, wanted: Halo | None) -> tuple[Any, Halo | None]:
        """The model as it is or trimmed, and by how much: one is loaded, with the memory that it has touched."""
        with self._opening:
            if self._session is None or self._wanted != wanted:
                self._session = None
                content, cut = (self._content, None) if wanted is None else trim(self._content, wanted)
                self._session, self._wanted, self._cut = self._load(content), wanted, cut
            return self._session, self._cut

    def _load(self, content: bytes) -> Any:
        """A model loaded into the library, on the provider that was asked for or not at all."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.log_severity_level = 4  # errors are raised; printed as well they would be said twice
        providers = _providers(self.device, self._max_vram)
        if self.device != "cpu":
            _load_cuda()
        try:
            session = onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:
            if lacks_memory(error):
                raise ResourceError(
                    f"{self._model.path} does not fit into the memory of {self.device} ({_first_line(error)}): "
                    "free some of it, or take another --device."
                ) from error
            raise ModelError(f"{self._model.path}: onnxruntime cannot load it ({_first_line(error)}).") from error
        _check_placement(session, providers[0][0])
        return session

    def _let_go(self) -> None:
        """Have the model loaded anew: a run that failed leaves what it had taken in the library's arena, for good."""
        with self._opening:
            self._session = None
            self._memory.clear()
            release_free_memory()

    def describe(self) -> dict[str, Any]:
        """See `Session.describe`."""
        return {
            "backend": self.backend,
            "version": str(onnxruntime.__version__),
            "device": self.device,
            "precision": self.precision,
            "provider": _providers(self.device, None)[0][0],
            "threads": self._threads,
        }

    def close(self) -> None:
        """See `Session.close`."""
        self._gate.close()
        self._session = None
        self._memory.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _providers(device: str, max_vram: int | None) -> list[tuple[str, dict[str, str]]]:
    """Providers with their options, the wanted one first; nodes that only handle shapes stay on the CPU."""
    cpu: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
    if device == "cpu":
        return [cpu]
    number = device.partition(":")[2] or "0"
    options = {"device_id": number, "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
    if max_vram is not None:
        options["gpu_mem_limit"] = str(max_vram)
    return [("CUDAExecutionProvider", options), cpu]


def _load_cuda() -> None:
    """Load CUDA and cuDNN from the pip packages that bring them, when they are not on the system's path."""
    with redirect_stdout(io.StringIO()):  # it prints what it does not find; that the provider starts is checked later
        onnxruntime.preload_dlls()


def _check_placement(session: Any, wanted: str) -> None:
    """The provider that was asked for runs every layer with weights. Raises DeviceError: the library only warns."""
    found = session.get_providers()[0]
    if found != wanted:
        raise DeviceError(
            f"onnxruntime could not start {wanted} and would run on {found} instead: "
            f"libraries of CUDA or cuDNN are missing or do not fit; run `{CUDA_INSTALL}`, or take --device cpu."
        )
    elsewhere = sorted({kind for provider, kind in _placement(session) if provider != wanted and kind in HEAVY})
    if elsewhere:
        raise DeviceError(
            f"onnxruntime would run {', '.join(elsewhere)} on another provider than {wanted}, which cannot: "
            "take another --precision, or --device cpu."
        )


def _placement(session: Any) -> list[tuple[str, str]]:
    """Provider and operator of every node."""
    parts = session.get_provider_graph_assignment_info()  # of what the option `record_ep_...` made it remember
    return [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]


def _map_channels(session: Any, spec: ModelSpec) -> dict[str, int] | None:
    """Channels of every output when all are maps as large as the input; None when one is not."""
    if not spec.answers_voxels:
        return None
    floats = all(output.type == "tensor(float)" for output in session.get_outputs())
    return {output.name: output.channels for output in spec.outputs} if floats else None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
