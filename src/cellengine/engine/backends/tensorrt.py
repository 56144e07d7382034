"""TensorRT (11 and later) or TensorRT-RTX: engines built from the ONNX file, kept in the cache folder.

Networks are strongly typed: the precision is that of the graph, so fp16 is a file of its own. An engine belongs to one
model, GPU and library version; a plan is loaded only when its hash is right, and built again otherwise. Both libraries
have one interface; the first one installed is taken.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from pathlib import Path
from typing import Any

from cellengine.engine.backends.cuda import CudaDevice
from cellengine.engine.backends.folders import cache_folder
from cellengine.engine.backends.hardware import cuda_devices
from cellengine.engine.backends.tensorrt_session import TensorRtSession
from cellengine.engine.model_file import ModelFile
from cellengine.errors import DeviceError, ModelError, missing_package
from cellengine.spec import INPUT_NAME, ModelSpec

LIBRARIES = ("tensorrt", "tensorrt_rtx")
MOST_TILES = 8
"""largest batch that an engine is built for"""
DIGEST_BYTES = 32
OLDEST = 11
"""earlier versions of TensorRT choose precisions by flags and build networks in another way"""


class TensorRt:
    """The backend: what it can do here, and how it opens a model."""

    name = "tensorrt"

    def __init__(self) -> None:
        self._library = load_library()

    def version(self) -> str:
        """Name and version of the library."""
        return f"{self._library.__name__} {self._library.__version__}"

    def devices(self) -> tuple[str, ...]:
        """The NVIDIA devices that the driver offers; the library is not asked, it may crash without a driver."""
        return tuple(f"cuda:{i}" for i in range(cuda_devices()))

    def precisions(self, device: str) -> tuple[str, ...]:
        """Precisions of graphs that it takes."""
        return ("fp32", "fp16")

    def why_not(self, device: str, precision: str) -> str:
        """Why `device` or `precision` is not available here, and what would mend it; empty when it is."""
        if device not in self.devices():
            found = cuda_devices()
            return f"tensorrt runs on NVIDIA devices only, and the driver offers {found}: take --device cpu"
        if precision == "int8":
            return "tensorrt takes signed activations only, and our int8 files hold unsigned ones: take fp16"
        if precision not in self.precisions(device):
            return f"tensorrt computes in {', '.join(self.precisions(device))} on {device}, not in {precision}"
        return ""

    def open(
        self, model: ModelFile, device: str, precision: str, threads: int | None, max_vram: int | None = None
    ) -> TensorRtSession:
        """A session; the engine is built first where none is cached, which takes a minute.

        Raises DeviceError for what `why_not` refuses, ModelError for a graph that the library cannot build.
        """
        if problem := self.why_not(device, precision):
            raise DeviceError(f"{model.spec.name} cannot run as asked: {problem}.")
        place = CudaDevice(int(device.partition(":")[2]))
        place.enter()
        plan = cached_plan(self._library, model, place, max_vram)
        runtime = self._library.Runtime(self._library.Logger(self._library.Logger.ERROR))
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise DeviceError(f"{self.version()} cannot load the engine it built for {place.name}: update the driver.")
        return TensorRtSession(self._library, engine, place, model.spec, device, precision, max_vram, self.version())


def load_library() -> Any:
    """TensorRT, or TensorRT-RTX. Raises DeviceError, with the pip command, when neither is installed or too old."""
    for name in LIBRARIES:
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        if name == "tensorrt" and int(str(library.__version__).split(".")[0]) < OLDEST:
            raise DeviceError(
                f"tensorrt {library.__version__} is too old: run `pip install 'cellengine[tensorrt]'` for {OLDEST}."
            )
        return library
    raise missing_package("tensorrt", "The backend tensorrt", "pip install 'cellengine[tensorrt]'")


def cached_plan(library: Any, model: ModelFile, device: CudaDevice, max_vram: int | None) -> bytes:
    """The engine of `model` for `device`: from the cache when it is whole, else built now and kept there."""
    folder = cache_folder() / "tensorrt"
    facts = [model.sha256, library.__name__, str(library.__version__), device.name, device.capability, max_vram]
    path = folder / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.plan"
    if (kept := read_plan(path)) is not None:
        return kept
    timing = folder / f"timing-{library.__name__}-{library.__version__}-{device.capability}.cache"
    plan = build_plan(library, model.content, model.spec, workspace=max_vram, timing=timing)
    write_plan(path, plan)
    return plan


def read_plan(path: Path) -> bytes | None:
    """A plan that was kept; None when there is none, or one that is not what was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, plan = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    return plan if hashlib.sha256(plan).digest() == digest else None


def write_plan(path: Path, plan: bytes) -> None:
    """Keep a plan after its own SHA-256. A folder that cannot be written only means building again the next time."""
    _keep(path, hashlib.sha256(plan).digest() + plan)


def build_plan(
    library: Any,
    content: bytes,
    spec: ModelSpec,
    *,
    workspace: int | None = None,
    timing: Path | None = None,
    capability: str | None = None,
) -> bytes:
    """The serialised engine of an ONNX file for any batch up to 8 tiles of at most the model's tile.

    fp32 is IEEE single precision: TF32 is off. `capability`, e.g. `SM86`, builds for a GPU that is not here
    (TensorRT-RTX only). Raises ModelError, with the library's reason, for what it cannot parse or build.
    """
    said: list[str] = []
    builder = library.Builder(_logger(library, said))
    network = builder.create_network(0)
    parser = library.OnnxParser(network, _logger(library, said))
    if not parser.parse(content):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise ModelError(f"{spec.name}: {library.__name__} cannot parse it ({'; '.join(errors) or 'no reason given'}).")
    config = builder.create_builder_config()
    config.clear_flag(library.BuilderFlag.TF32)
    if workspace is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, workspace)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(library.ComputeCapability, capability), 0)
    cache = _begin_timing(config, timing)
    config.add_optimization_profile(_profile(builder, spec))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = said[-1] if said else "no reason given"
        raise ModelError(f"{spec.name}: {library.__name__} cannot build it ({reason}).")
    if cache is not None and timing is not None:
        _keep(timing, bytes(cache.serialize()))
    return bytes(plan)


def _profile(builder: Any, spec: ModelSpec) -> Any:
    """Shapes from one divisor to eight of the model's tiles; tuned for one tile."""
    channels = len(spec.channels)
    profile = builder.create_optimization_profile()
    profile.set_shape(
        INPUT_NAME,
        (1, channels, *(spec.tile if spec.task == "classification" else spec.divisor)),
        (1, channels, *spec.tile),
        (MOST_TILES, channels, *spec.tile),
    )
    return profile


def _begin_timing(config: Any, path: Path | None) -> Any:
    """The kernels that were timed before on this kind of GPU; None where nothing is kept."""
    if path is None:
        return None
    try:
        kept = path.read_bytes()
    except OSError:
        kept = b""
    cache = config.create_timing_cache(kept)
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _keep(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)


def _logger(library: Any, said: list[str]) -> Any:
    """A logger that remembers errors instead of printing them."""

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.Severity.ERROR, library.ILogger.Severity.INTERNAL_ERROR):
                said.append(" ".join(message.split()))

    return Logger()
