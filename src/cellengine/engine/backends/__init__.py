"""Runtimes behind one door: `open_session`. What is asked for by name and not there is an error; nothing falls back.

Each backend lives in a file of its own that is imported only when it is considered. `auto` stands for every verified
and available combination of backend, device and precision; the fastest one on this machine is timed once and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cellengine.engine.backends.choice import Choice, Combination, choice_path, choose, read_choice
from cellengine.engine.backends.folders import cache_folder
from cellengine.engine.backends.hardware import cpu_count, cuda_devices
from cellengine.engine.backends.pool import SessionPool
from cellengine.engine.backends.proofs import is_proven, may_be_proven
from cellengine.engine.model_file import ModelFile, find_form, form_path, read_model_file, resolve_model
from cellengine.engine.session import Session
from cellengine.errors import DeviceError, ModelError, UsageError

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "Backend",
    "Candidate",
    "Choice",
    "available",
    "best_choice",
    "cache_folder",
    "kept_choice",
    "open_session",
]

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
"""most exact first"""
OWN_FILE = ("fp16", "int8")
"""precisions that change the graph and so live in a file of their own"""


class Backend(Protocol):
    """A runtime: what it can do on this machine, and how it opens a model."""

    name: str

    def version(self) -> str:
        """Version of the library."""
        ...

    def devices(self) -> tuple[str, ...]:
        """Devices that are present and that the library can use."""
        ...

    def precisions(self, device: str) -> tuple[str, ...]:
        """Precisions that the device computes in."""
        ...

    def why_not(self, device: str, precision: str) -> str:
        """Why the pair is not available, and what would mend it; empty when it is."""
        ...

    def open(
        self, model: ModelFile, device: str, precision: str, threads: int | None, max_vram: int | None = None
    ) -> Session:
        """Load the model. `threads`: processors, by default all; `max_vram`: bytes it may take of a GPU's memory.

        Raises ModelError or DeviceError.
        """
        ...


def _onnxruntime() -> Backend:
    from cellengine.engine.backends.onnxruntime import OnnxRuntime

    return OnnxRuntime()


def _openvino() -> Backend:
    from cellengine.engine.backends.openvino import OpenVino

    return OpenVino()


def _tensorrt() -> Backend:
    from cellengine.engine.backends.tensorrt import TensorRt

    return TensorRt()


BACKENDS: dict[str, Callable[[], Backend]] = {
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
    "tensorrt": _tensorrt,
}
"""name -> loader; the loader raises DeviceError, with the pip command, when the package is not installed"""
EXTRAS = ("tensorrt",)
"""backends that the base install lacks: `auto` does not miss them"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A combination that may run a model here, or the reason why it may not."""

    backend: str
    device: str
    precision: str
    model: ModelFile | None
    """the file that would run: the model itself, or its form for the precision. With a `problem` one that the golden
    test of `doctor` may unlock"""
    problem: str = ""
    """why not, and what would mend it; empty for one that may run"""


def available(
    model: ModelFile, *, device: str = "auto", backend: str = "auto", precision: str | None = None
) -> list[Candidate]:
    """Every combination that fits what was asked for, the possible ones and the impossible ones with their reason.

    Loads the libraries but not the model. Raises UsageError for a backend or precision that does not exist.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise UsageError(f"Unknown backend {backend}; known are auto, {', '.join(BACKENDS)}.")
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"Unknown precision {precision}; known are {', '.join(PRECISIONS)}.")
    _check_device(device)
    device = "cuda:0" if device == "cuda" else device
    found: list[Candidate] = []
    for name in BACKENDS if backend == "auto" else (backend,):
        try:
            loaded = BACKENDS[name]()
        except DeviceError as error:
            if backend == name or name not in EXTRAS:
                found.append(Candidate(name, device, precision or "fp32", None, str(error)))
            continue
        for place in loaded.devices() if device == "auto" else (device,):
            for kind in PRECISIONS if precision is None else (precision,):
                found.append(_consider(model, loaded, place, kind))
    return found


def open_session(
    model: str | Path | ModelFile,
    *,
    device: str = "auto",
    backend: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    max_vram: int | None = None,
) -> Session:
    """A model, ready to run.

    `model` is a bundled name, a file, or one that was read before. `device` is `auto`, `cpu`, `cuda:N`, several of them
    with commas, or `all` GPUs: each is a session, fed from one queue, as was chosen for the first. `backend` is
    `auto` or a name of `BACKENDS`; `precision` None means any verified one. What is left open is decided by timing the
    candidates once per model and machine. `threads`: processors to use, by default all of this process. `max_vram`:
    bytes of a GPU's memory that the network may take, by default all that is free.

    Raises DeviceError when what was asked for is not available or not verified, ModelError for a bad model,
    UsageError for names that do not exist.
    """
    file = model if isinstance(model, ModelFile) else read_model_file(resolve_model(model))
    first, *others = _devices(device)
    considered = available(file, device=first, backend=backend, precision=precision)
    possible = _possible(considered)
    if not possible:
        raise DeviceError(_why_none(file, considered))
    combination = next(iter(possible)) if len(possible) == 1 else best_choice(file, considered, threads).combination
    chosen, place, kind = combination
    with ExitStack() as opened:
        sessions = [
            opened.enter_context(BACKENDS[chosen]().open(possible[combination], each, kind, threads, max_vram))
            for each in (place, *others)
        ]
        opened.pop_all()
    return sessions[0] if len(sessions) == 1 else SessionPool(sessions)


def _devices(asked: str) -> list[str]:
    """`all`, or a list with commas, as single devices."""
    if asked == "all":
        return [f"cuda:{i}" for i in range(cuda_devices())] or ["cpu"]
    devices = [device.strip() for device in asked.split(",")]
    for device in devices:
        _check_device(device)
    return ["cuda:0" if device == "cuda" else device for device in devices]


def _check_device(device: str) -> None:
    if device != "auto" and device.partition(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"Unknown device {device}; known are auto, cpu, cuda:0, cuda:1, ..., several, or all.")


def best_choice(model: ModelFile, candidates: list[Candidate], threads: int | None = None) -> Choice:
    """The fastest of `candidates` here: from the cache, or timed now. Raises DeviceError when none of them opens."""
    files = _possible(candidates)
    threads = threads or cpu_count()

    def opener(key: Combination) -> Callable[[], Session]:
        backend, device, precision = key
        return lambda: BACKENDS[backend]().open(files[key], device, precision, threads)

    path, versions = _kept_at(files, threads)
    return choose(model, {key: opener(key) for key in files}, versions, threads, path)


def kept_choice(candidates: list[Candidate], threads: int | None = None) -> tuple[Path, Choice | None]:
    """Where the choice among `candidates` is kept, and the choice; None when none was made yet. Times nothing."""
    path, _ = _kept_at(_possible(candidates), threads or cpu_count())
    return path, read_choice(path)


def _possible(candidates: list[Candidate]) -> dict[Combination, ModelFile]:
    return {(c.backend, c.device, c.precision): c.model for c in candidates if c.model is not None and not c.problem}


def _kept_at(files: Mapping[Combination, ModelFile], threads: int) -> tuple[Path, dict[str, str]]:
    versions = {name: BACKENDS[name]().version() for name in sorted({backend for backend, _, _ in files})}
    return choice_path(files, versions, threads, cache_folder() / "auto"), versions


def _consider(model: ModelFile, backend: Backend, device: str, precision: str) -> Candidate:
    if problem := backend.why_not(device, precision):
        return Candidate(backend.name, device, precision, None, problem)
    if model.form in OWN_FILE and precision != model.form:
        return Candidate(backend.name, device, precision, None, f"{model.path.name} computes in {model.form} only")
    file: ModelFile | None = model
    if precision in OWN_FILE:
        try:
            file = find_form(model, precision)
        except ModelError as error:  # damaged, or made from an earlier model: no reason to refuse other precisions
            return Candidate(backend.name, device, precision, None, str(error))
    if file is None:
        wanted = form_path(model.path, precision).name
        problem = f"{wanted} is not beside the model: make it with `cellengine export --precision {precision}`"
        return Candidate(backend.name, device, precision, None, problem)
    verified = _verified(file, backend.name, device)
    if precision not in verified and may_be_proven(file, backend.name, device, precision):
        if is_proven(file, backend.name, backend.version(), device, precision):
            return Candidate(backend.name, device, precision, file)
        problem = (
            f"{precision} of {file.spec.name} was not yet run on {backend.name} and {device}: "
            f"prove it here with `cellengine doctor {file.path}`"
        )
        return Candidate(backend.name, device, precision, file, problem)
    if precision not in verified:
        problem = (
            f"{precision} on {backend.name} is not verified for {file.spec.name} "
            f"(verified: {', '.join(verified) or 'none'}): "
            f"export it with `cellengine export --precision {precision}`"
        )
        return Candidate(backend.name, device, precision, None, problem)
    return Candidate(backend.name, device, precision, file)


def _verified(model: ModelFile, backend: str, device: str) -> tuple[str, ...]:
    """Precisions verified for this backend on this class of device (`cpu`, `cuda`).

    fp32 needs no proof: it is what every other precision is compared with.
    """
    place = device.partition(":")[0]
    proven = tuple(
        p.precision
        for p in model.spec.parity
        if p.passed
        and not p.emulated
        and p.backend == backend
        and p.device.partition(":")[0] == place
        and p.precision != "fp32"
    )
    return proven if model.form in OWN_FILE else ("fp32", *proven)


def _why_none(model: ModelFile, considered: list[Candidate]) -> str:
    reasons = dict.fromkeys(c.problem.rstrip(".") for c in considered)
    return f"{model.spec.name} cannot run as asked: {'; '.join(reasons)}."
