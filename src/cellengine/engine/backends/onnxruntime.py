"""onnxruntime: CPU in exact fp32 or int8, CUDA when asked for. Every other provider is somebody else's."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cellengine.engine.backends.hardware import cpu_count, cuda_devices
from cellengine.engine.model_file import ModelFile
from cellengine.engine.session import Gate, Outputs, check_batch, run_error
from cellengine.errors import DeviceError, ModelError, missing_package
from cellengine.spec import INPUT_NAME

try:
    import onnxruntime
except ImportError as error:
    raise missing_package("onnxruntime", "The backend onnxruntime", "pip install onnxruntime") from error

CUDA_INSTALL = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
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
                return f"this onnxruntime is built without CUDA: run `pip uninstall onnxruntime` and `{CUDA_INSTALL}`"
            return f"the NVIDIA driver offers {cuda_devices()} devices: see nvidia-smi, or take --device cpu"
        if device not in self.devices():
            return f"onnxruntime runs on {', '.join(self.devices())} here"
        if precision not in self.precisions(device):
            return f"onnxruntime computes in {', '.join(self.precisions(device))} on {device}, not in {precision}"
        return ""

    def open(self, model: ModelFile, device: str, precision: str, threads: int | None) -> OnnxRuntimeSession:
        """A session; see `OnnxRuntimeSession`. Raises DeviceError for what `why_not` refuses."""
        if problem := self.why_not(device, precision):
            raise DeviceError(f"{model.spec.name} cannot run as asked: {problem}.")
        return OnnxRuntimeSession(model, device, precision, threads)


class OnnxRuntimeSession:
    """A model in onnxruntime. fp32 is IEEE single precision: on CUDA TF32 is off.

    `threads` is the number of threads of one run, by default all processors of this process. Threads sleep while they
    wait: spinning ones took 1.8 times as long on 2 cores that had other work, such as the engine's own post-processing.
    Memory: the activations of up to two batches.
    """

    backend = "onnxruntime"
    concurrency = CONCURRENCY

    def __init__(self, model: ModelFile, device: str, precision: str, threads: int | None = None) -> None:
        self.spec = model.spec
        self.device = device
        self.precision = precision
        self._threads = threads or cpu_count()
        # on a CPU one run at a time has all cores: two took 10 % longer, and twice the memory to touch and to hold
        self._gate = Gate(1 if device == "cpu" else CONCURRENCY)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # errors are raised; printed as well they would be said twice
        providers = _providers(device)
        try:
            session = onnxruntime.InferenceSession(model.content, options, providers=providers)
        except Exception as error:
            raise ModelError(f"{model.path}: onnxruntime cannot load it ({_first_line(error)}).") from error
        self._session: Any = session
        wanted, found = providers[0][0], session.get_providers()[0]
        if found != wanted:
            raise DeviceError(
                f"onnxruntime could not start {wanted} and would run on {found} instead: "
                f"libraries of CUDA or cuDNN are missing or do not fit; run `{CUDA_INSTALL}`, or take --device cpu."
            )
        self._names = [output.name for output in session.get_outputs()]

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        """See `Session.run`."""
        batch = check_batch(batch, self.spec)
        with self._gate.enter():
            try:
                values = self._session.run(self._names, {INPUT_NAME: batch})
            except Exception as error:
                raise run_error(error, self, batch.shape) from error
        return {name: np.asarray(value, dtype=np.float32) for name, value in zip(self._names, values, strict=True)}

    def describe(self) -> dict[str, Any]:
        """See `Session.describe`."""
        return {
            "backend": self.backend,
            "version": str(onnxruntime.__version__),
            "device": self.device,
            "precision": self.precision,
            "provider": _providers(self.device)[0][0],
            "threads": self._threads,
        }

    def close(self) -> None:
        """See `Session.close`."""
        self._gate.close()
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _providers(device: str) -> list[tuple[str, dict[str, str]]]:
    """Providers with their options, the wanted one first; nodes that only handle shapes stay on the CPU."""
    cpu: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
    if device == "cpu":
        return [cpu]
    number = device.partition(":")[2] or "0"
    return [("CUDAExecutionProvider", {"device_id": number, "use_tf32": "0"}), cpu]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
