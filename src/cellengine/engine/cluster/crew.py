"""How a run shares its work out to a cluster: short inputs one a task, long ones by tiles and blocks.

The run itself keeps the plan, the journal, the checkpoints and the lock on the output, and writes the outputs of long
inputs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from cellengine.engine.checkpoint import Slot, scratch_folder
from cellengine.engine.cluster.connect import Cluster, open_cluster
from cellengine.engine.cluster.session import ClusterSession
from cellengine.engine.cluster.tasks import (
    Input,
    ModelName,
    compute_tiles,
    label_block,
    label_whole,
    what_is_hidden,
)
from cellengine.engine.flow import Stop
from cellengine.engine.forecast import PROGRAM_BYTES
from cellengine.engine.job import Job, label_file, plan_job
from cellengine.engine.model_file import ModelFile
from cellengine.engine.options import InferOptions
from cellengine.engine.pieces import LabelledBlock, Workpiece
from cellengine.engine.plan import Plan, network_bytes, ram_limit
from cellengine.engine.plan_blocks import Streaming
from cellengine.engine.run import Progress
from cellengine.engine.session import Session
from cellengine.errors import DeviceError
from cellengine.io.sink import writing
from cellengine.zoo import bundled

Plain = dict[str, Any]

SEVERAL = 32
"""pieces asked for at a time of workers elsewhere, even if they are few now: others may join"""
SHOWN = 2
"""inputs at either end of the list that every worker must see before a run begins"""


class Crew:
    """The workers of one run. Any thread may ask."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._long = threading.Lock()
        self._memory = _Memory()

    @property
    def files_at_once(self) -> int:
        """Inputs that are usefully begun at a time."""
        return self._at_once()

    def open(self, file: ModelFile, max_vram: int | None, **how: Any) -> ClusterSession:
        """A model on the workers; `how`: device, backend and precision as for `open_session`."""
        known = next((name for name, path in bundled().items() if path == file.path), None)
        name = ModelName(known or str(file.path.absolute()), file.sha256, **how, max_vram=max_vram)
        return ClusterSession(self._cluster, name, file.spec)

    def check_paths(self, output: Path, jobs: Sequence[Job], sessions: Sequence[Session]) -> None:
        """Refuse workers that do not see the same files. Raises DeviceError."""
        probe = output / f".{uuid4().hex}.probe"
        with writing(probe):
            probe.touch()
        ends = {job.name: job for job in (*jobs[:SHOWN], *jobs[-SHOWN:])}
        models = tuple(map(_name, sessions))
        try:
            shown = tuple(map(_absolute, ends.values()))
            answers = self._cluster.call_each(what_is_hidden, output.absolute(), probe.name, shown, models)
        finally:
            probe.unlink()
        for worker, hidden in answers.items():
            if hidden:
                raise DeviceError(
                    f"--dask {self._name}: the worker {worker} does not see {hidden}: start workers on machines where "
                    "inputs, model and output have the same paths."
                )

    def label_file(
        self,
        job: Job,
        output: Path,
        session: Session,
        options: InferOptions,
        stop: Stop,
        progress: Progress,
        *,
        then: Session | None = None,
        run: str = "",
        voxels_per_s: float | None = None,
    ) -> Plain:
        """As `job.label_file`, by the workers. The record says the same, but for times."""
        how: Plain = {"run": run, "voxels_per_s": voxels_per_s}
        expected = plan_job(job, output, session, options, voxels_per_s)
        if expected.resumable or (scratch_folder(output / job.stem) / "log").exists():
            with self._long:
                others = partial(self._hands, session, options)
                return label_file(job, output, session, options, stop, progress, **how, then=then, others=others)
        cells = None if then is None else _name(then)
        limit = ram_limit(options) if self._cluster.is_local else None
        with self._memory.hold(expected.memory_bytes - PROGRAM_BYTES, limit):
            stop.check()
            record = self._cluster.call(
                label_whole, _absolute(job), output.absolute(), _name(session), cells, options, run, voxels_per_s
            )
        progress.begin(expected.name, record["tiles"])
        progress.advance(record["tiles"])
        return record

    def _hands(
        self, session: Session, options: InferOptions, job: Job, plan: Plan, how: Streaming, scores: Path
    ) -> ClusterHands:
        given = Input(_absolute(job), options, scores.absolute(), how.cut.slot_bytes)
        tiles = blocks = self._at_once()
        if self._cluster.is_local:
            # both kinds of work may be in hand at once: each gets half of the memory
            half, workers = ram_limit(options) // 2, self._cluster.places()
            fitting = [half // network_bytes(plan, session), half // (how.memory_bytes // how.threads)]
            tiles, blocks = (tiles if fit >= workers else max(1, fit) for fit in fitting)
        return ClusterHands(self._cluster, given, _name(session), tiles, blocks)

    def _at_once(self) -> int:
        """Each worker has a piece in work and one at hand."""
        return max(2 * self._cluster.places(), 1 if self._cluster.is_local else SEVERAL)


class ClusterHands:
    """The work on the tiles and blocks of one source is done by workers; see `Hands`."""

    def __init__(self, cluster: Cluster, given: Input, model: ModelName, tiles_at_once: int, blocks_at_once: int):
        self._cluster, self._given, self._model = cluster, given, model
        self.tiles_at_once, self.blocks_at_once = tiles_at_once, blocks_at_once

    def compute(self, of: Workpiece, tiles: Sequence[int], slots: Mapping[int, int]) -> dict[int, int]:
        """See `Hands.compute`."""
        return self._cluster.call(compute_tiles, self._given, self._model, of, list(tiles), dict(slots))

    def label(self, of: Workpiece, block: int, slots: Mapping[int, Slot]) -> LabelledBlock:
        """See `Hands.label`. Blocks come first: their scores are forgotten then."""
        return self._cluster.call_first(label_block, self._given, self._model, of, block, dict(slots))


class _Memory:
    """Memory that is shared out among inputs in work."""

    def __init__(self) -> None:
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, wanted: int, limit: int | None) -> Iterator[None]:
        """Wait until `wanted` bytes fit beside what others hold, or nobody holds any."""
        with self._changed:
            self._changed.wait_for(lambda: limit is None or not self._held or self._held + wanted <= limit)
            self._held += wanted
        try:
            yield
        finally:
            with self._changed:
                self._held -= wanted
                self._changed.notify_all()


@contextmanager
def open_crew(name: str) -> Iterator[Crew]:
    """The workers that `name` stands for, `local:N` or the address of a scheduler; see `open_cluster`."""
    with open_cluster(name) as cluster:
        yield Crew(cluster, name)


def _absolute(job: Job) -> Job:
    """Workers have other working folders."""
    return replace(job, path=job.path.absolute())


def _name(session: Session) -> ModelName:
    """How workers call the model of a session that `Crew.open` gave."""
    if not isinstance(session, ClusterSession):
        raise TypeError(f"a session of this process for a crew: {session}")
    return session.name
