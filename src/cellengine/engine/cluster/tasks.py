"""What runs in the workers: each opens input, model and scratch by their paths, does one piece, and answers shortly.

A worker process keeps its session and the sources that it opened last. No dask here: these are plain functions.
"""

from __future__ import annotations

import platform
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import numpy as np

from cellengine.engine.backends import open_session
from cellengine.engine.checkpoint import Slot, scratch_folder
from cellengine.engine.flow import Stop
from cellengine.engine.job import Job, label_file, open_job
from cellengine.engine.model_file import read_model_file, resolve_model
from cellengine.engine.options import InferOptions
from cellengine.engine.outputs import fingerprint
from cellengine.engine.pieces import LabelledBlock, OwnHands, Workpiece
from cellengine.engine.run import Progress
from cellengine.engine.scene import Scene, scenes
from cellengine.engine.scores import check_slots
from cellengine.engine.session import Halo, Outputs, Session
from cellengine.errors import CellengineError, ResourceError
from cellengine.io.sink import remove, writing
from cellengine.io.slots import SlotFile

Array = np.ndarray[Any, Any]
Plain = dict[str, Any]

_OPENING = Lock()
_SOURCES = 2
"""sources that a worker keeps open: one file ends while the next one begins"""
_SESSIONS = 2
"""models that it keeps: one that finds cells and one that classifies them"""


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model and where it runs, in words that every worker understands."""

    model: str
    """a bundled name or an absolute path"""
    sha256: str
    """of its file"""
    device: str
    backend: str
    precision: str | None
    max_vram: int | None


@dataclass(frozen=True, slots=True)
class Input:
    """An input in work, and where what is finished of it goes. Paths are absolute."""

    job: Job
    options: InferOptions
    scratch: Path
    slot_bytes: int


def describe_model(name: ModelName) -> Plain:
    """What a worker runs a model with: attributes of its session, and what it says of itself."""
    return _description(session_of(name))


def describe_here(name: ModelName) -> Plain:
    """What this process would run a model with; it is let go again."""
    with _open(name) as session:
        return _description(session)


def _description(session: Session) -> Plain:
    attributes = ("backend", "device", "precision", "concurrency")
    return {key: getattr(session, key) for key in attributes} | {"described": session.describe()}


def run_batch(name: ModelName, batch: Array, halo: Halo | None) -> Outputs:
    """The answer of a model to a batch, or to its core."""
    return {key: np.array(values) for key, values in session_of(name).run(batch, halo).items()}


def compute_tiles(
    given: Input, model: ModelName, of: Workpiece, tiles: list[int], slots: dict[int, int]
) -> dict[int, int]:
    """See `Hands.compute`."""
    with closing(SlotFile(given.scratch, given.slot_bytes)) as scores:
        return OwnHands(_pictures(given, model), session_of(model), scores).compute(of, tiles, slots)


def label_block(given: Input, model: ModelName, of: Workpiece, block: int, slots: dict[int, Slot]) -> LabelledBlock:
    """See `Hands.label`. The scores may be those of other workers and are checked."""
    session = session_of(model)
    with closing(SlotFile(given.scratch, given.slot_bytes)) as scores:
        check_slots(scores, slots, session.spec, of.plan)
        return OwnHands(_pictures(given, model), session, scores).label(of, block, slots)


def label_whole(
    job: Job,
    output: Path,
    model: ModelName,
    then: ModelName | None,
    options: InferOptions,
    run: str,
    voxels_per_s: float | None,
) -> Plain:
    """See `label_file`: one input from beginning to end.

    Its files are made in a folder of this call's own and take their names at the end, because a worker that was given
    up may still be at work on the same input.
    """
    own = scratch_folder(output / job.stem) / uuid4().hex
    cells = None if then is None else session_of(then)
    how: Plain = {"then": cells, "run": run, "voxels_per_s": voxels_per_s}
    try:
        with writing(own):
            own.mkdir(parents=True)
        record = label_file(job, own, session_of(model), options, Stop(), Progress(), **how)
        for name in record["outputs"]:
            with writing(output / name):
                (output / name).parent.mkdir(parents=True, exist_ok=True)
                if (output / name).is_dir():
                    remove(output / name)
                (own / name).replace(output / name)
    finally:
        remove(own)
    return record


def what_is_hidden(output: Path, probe: str, inputs: tuple[Job, ...], models: tuple[ModelName, ...]) -> str:
    """What this machine does not see of a run; empty when it sees all. `probe`: a file that lies in the output."""
    if not (output / probe).is_file():
        return f"the output {output}"
    for job in inputs:
        try:
            same = fingerprint(job.path) == job.fingerprint
        except CellengineError:
            same = False
        if not same:
            return f"the input {job.path} as it is here"
    for name in models:
        try:
            same = read_model_file(resolve_model(name.model)).sha256 == name.sha256
        except CellengineError:
            same = False
        if not same:
            return f"the model {name.model} as it is here"
    return ""


def session_of(name: ModelName) -> Session:
    """The session of this process for a model."""
    with _OPENING:  # another thread may be about to open the same
        return _kept_session(name)


@lru_cache(maxsize=_SESSIONS)
def _kept_session(name: ModelName) -> Session:
    return _open(name)


def _open(name: ModelName) -> Session:
    file = read_model_file(resolve_model(name.model))
    if file.sha256 != name.sha256:
        raise _another(name.model)
    how: Plain = {"device": name.device, "backend": name.backend, "precision": name.precision}
    return open_session(file, **how, max_vram=name.max_vram)


def _pictures(given: Input, model: ModelName) -> list[Scene]:
    session = session_of(model)
    key = (given.job.path, *sorted(given.job.fingerprint.items()), given.options, model)
    with _OPENING:
        if key not in _OPENED:
            if fingerprint(given.job.path) != given.job.fingerprint:
                raise _another(given.job.path)
            while len(_OPENED) >= _SOURCES:
                _OPENED.pop(next(iter(_OPENED)))
            source = open_job(given.job, given.options)
            _OPENED[key] = scenes(source, session.spec, given.options)
        return _OPENED[key]


_OPENED: dict[tuple[Any, ...], list[Scene]] = {}
"""the pictures of the sources that were opened last"""


def _another(path: Path | str) -> ResourceError:
    return ResourceError(
        f"A worker on {platform.node()} sees another {path} than the run: all machines need the same files under the "
        "same paths."
    )
