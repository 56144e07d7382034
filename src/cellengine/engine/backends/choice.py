"""`auto`: which combination of backend, device and precision is fastest here. Timed once, kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

from cellengine.engine.backends.hardware import cpu_flags, cpu_name, cuda_devices
from cellengine.engine.golden import golden_input
from cellengine.engine.model_file import ModelFile
from cellengine.engine.session import Halo, Session, has_core
from cellengine.errors import CellengineError, DeviceError
from cellengine.records import RecordError, from_plain, to_plain
from cellengine.spec import ModelSpec

Combination = tuple[str, str, str]
"""backend, device, precision"""

ROUNDS = 2
TIMED_VOXELS = 1 << 18
"""of the tile that is timed: a model's own may be so large that a first run would wait for minutes"""
HOPELESS = 4.0
"""a candidate whose first answer takes this many times the best time is not timed further"""
TIE = 1.03
"""within this factor of the best the more exact precision wins"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """One candidate on one tile, the model's or a smaller one of `TIMED_VOXELS`."""

    backend: str
    device: str
    precision: str
    seconds: float | None = None
    """per tile, with as many callers as the session can use; None when it did not open"""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was timed, where, and what won."""

    model: str
    sha256: str
    machine: str
    threads: int
    versions: dict[str, str]
    timings: tuple[Timing, ...]

    @property
    def combination(self) -> Combination:
        """The winner; candidates are listed most exact first."""
        timed = [(t, t.seconds) for t in self.timings if t.seconds is not None]
        best = min(seconds for _, seconds in timed)
        winner = next(t for t, seconds in timed if seconds <= TIE * best)
        return winner.backend, winner.device, winner.precision


def choice_path(files: Mapping[Combination, ModelFile], versions: dict[str, str], threads: int, folder: Path) -> Path:
    """Where the choice is kept: the name is a hash of everything that it depends on, the files of forms among it."""
    candidates = sorted((*combination, file.sha256) for combination, file in files.items())
    facts = [candidates, machine(), sorted(cpu_flags()), versions, threads]
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return folder / f"{name}.json"


def choose(
    model: ModelFile,
    openers: Mapping[Combination, Callable[[], Session]],
    versions: dict[str, str],
    threads: int,
    path: Path,
) -> Choice:
    """The choice among `openers`: from `path`, or timed now and kept there.

    Raises DeviceError when no candidate opens.
    """
    if (kept := read_choice(path)) is not None:
        return kept
    timings: list[Timing] = []
    for combination in sorted(openers, key=_most_likely_first):
        best = min((t.seconds for t in timings if t.seconds is not None), default=None)
        timings.append(_time(combination, openers[combination], best))
    if all(t.seconds is None for t in timings):
        raise DeviceError(f"{model.spec.name} opens nowhere: {'; '.join(t.problem.rstrip('.') for t in timings)}.")
    order = list(openers)
    timings.sort(key=lambda t: (_EXACTNESS.index(t.precision), order.index((t.backend, t.device, t.precision))))
    choice = Choice(model.spec.name, model.sha256, machine(), threads, versions, tuple(timings))
    _keep(path, choice)
    return choice


def read_choice(path: Path) -> Choice | None:
    """A choice that was kept; None when there is none, or a damaged one, which is then made again."""
    try:
        choice = from_plain(Choice, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecordError):
        return None
    return choice if any(t.seconds is not None for t in choice.timings) else None


def machine() -> str:
    """What a choice depends on besides the model and the libraries."""
    return f"{platform.system()} {platform.machine()}, {cpu_name()}, {cuda_devices()} CUDA devices"


_EXACTNESS = ("fp32", "bf16", "fp16", "int8")


def _most_likely_first(combination: Combination) -> tuple[bool, int]:
    """So that hopeless candidates are recognised by their first answer."""
    return combination[1] == "cpu", -_EXACTNESS.index(combination[2])


def _time(combination: Combination, opener: Callable[[], Session], best: float | None) -> Timing:
    try:
        with opener() as session:
            return Timing(*combination, seconds=_seconds_per_tile(session, best))
    except CellengineError as error:
        return Timing(*combination, problem=str(error))


def _seconds_per_tile(session: Session, best: float | None) -> float:
    """Best of two rounds, after one run that compiles and touches the memory."""
    tile = golden_input(len(session.spec.channels), _timed_tile(session.spec))
    halo = _timed_halo(session.spec)
    session.run(tile, halo)
    start = time.perf_counter()
    session.run(tile, halo)
    first = time.perf_counter() - start
    if best is not None and first / session.concurrency > HOPELESS * best:
        return first
    rounds = []
    with ThreadPoolExecutor(session.concurrency) as pool:
        for _ in range(ROUNDS):
            start = time.perf_counter()
            list(pool.map(session.run, [tile] * session.concurrency, [halo] * session.concurrency))
            rounds.append((time.perf_counter() - start) / session.concurrency)
    return min(first, *rounds)


def _timed_tile(spec: ModelSpec) -> tuple[int, ...]:
    """The model's tile, shrunk evenly to at most `TIMED_VOXELS`, in multiples of the divisor."""
    shrink = min(1.0, (TIMED_VOXELS / prod(spec.tile)) ** (1 / len(spec.tile)))
    return tuple(max(d, int(t * shrink) // d * d) for t, d in zip(spec.tile, spec.divisor, strict=True))


def _timed_halo(spec: ModelSpec) -> Halo | None:
    """The halo that runs have, where the timed tile has room for it."""
    return spec.halo if spec.answers_voxels and has_core(spec.halo, _timed_tile(spec)) else None


def timed_voxels(spec: ModelSpec) -> int:
    """Voxels of the tile that is timed."""
    return prod(_timed_tile(spec))


def _keep(path: Path, choice: Choice) -> None:
    """Write atomically. A folder that cannot be written only means timing again the next time."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(to_plain(choice), indent=1), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        log.warning("The timing of the backends cannot be kept in %s (%s); set CELLENGINE_CACHE.", path.parent, error)
