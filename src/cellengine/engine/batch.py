"""`infer` on files and folders: one output folder, a journal, and one bad file that does not spoil the others."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellengine.engine.backends import open_session
from cellengine.engine.backends.hardware import cpu_count, cpu_name
from cellengine.engine.checkpoint import check_input, scratch_folder
from cellengine.engine.classify import check_classifier
from cellengine.engine.crops import classify_into
from cellengine.engine.environment import deciding_versions, peak_memory_bytes, versions
from cellengine.engine.flow import Stop, overlap, stop_on_signals
from cellengine.engine.forecast import Forecast, network_speed
from cellengine.engine.job import Job, label_file, plan_job
from cellengine.engine.journal import Journal, hold_output, open_journal
from cellengine.engine.model_file import ModelFile, read_model_file, resolve_model
from cellengine.engine.options import InferOptions
from cellengine.engine.outputs import fingerprint
from cellengine.engine.plan import check_tile, ram_limit
from cellengine.engine.report import write_report
from cellengine.engine.report.memory import MemoryTrace
from cellengine.engine.run import Progress
from cellengine.engine.session import Session
from cellengine.errors import InputError, PartialFailure, UsageError
from cellengine.io import InputFile, find_inputs, output_stems, write_table
from cellengine.io.sink import remove
from cellengine.spec import ClassOf

if TYPE_CHECKING:
    from cellengine.engine.cluster.crew import Crew

Plain = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Device:
    """Where and how the network runs; "auto" is decided by measurement among what is verified."""

    device: str = "auto"
    backend: str = "auto"
    precision: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a call did."""

    records: dict[str, Plain]
    """input -> what run.json says of it"""
    failures: list[Plain] = field(default_factory=list)
    session: Plain = field(default_factory=dict)
    already_complete: bool = False
    task: str = "instances"
    """what the model does, as its spec says"""


def infer_files(
    inputs: Sequence[str],
    model: str,
    output: Path,
    options: InferOptions,
    device: Device,
    *,
    then: str | None = None,
    restart: bool = False,
    dask: str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Label every input into `output`; go on where an earlier call of the same run stopped.

    Nothing is read or written before the model, the inputs and the output are known to be usable. Raises the error of
    a single bad input as it is; of several inputs the good ones are finished and PartialFailure is raised at the end.
    `then`: a classifier for the cells that the model finds. A model that is a classifier itself takes every input as a
    crop and writes one table, `classes.csv`. `dask`: workers that do the work, `local:N` or a scheduler's address; what
    is written is the same.
    """
    begun = time.perf_counter()
    file, second = read_models(model, then)
    jobs = _jobs(find_inputs(inputs))
    check_tile(file.spec, options)
    with hold_output(output), stop_on_signals() as stop, ExitStack() as opened:
        memory = opened.enter_context(MemoryTrace())
        journal = open_journal(output, _identity(jobs, file, second, options, device), restart=restart)
        _check_unchanged(jobs, journal)
        if journal.complete:
            return Summary(journal.finished, already_complete=True, task=file.spec.task)
        asked: Plain = {"backend": device.backend, "precision": device.precision, "device": device.device}
        frozen = dict(journal.frozen) or {**asked, "then": {**asked, "precision": None}}
        frozen_then = frozen.pop("then", None)
        # tiles follow from the memory: a run resumed on a machine with more of it still cuts as it began
        options = replace(options, max_ram=frozen.pop("max_ram", ram_limit(options)))
        crew = None if dask is None else opened.enter_context(_open_crew(dask))

        def opened_model(one: ModelFile, how: Plain) -> Session:
            opener = open_session if crew is None else crew.open
            return opened.enter_context(opener(one, **how, max_vram=options.max_vram))

        session = opened_model(file, frozen)
        cells = None if second is None else opened_model(second, frozen_then)
        if crew is not None:
            crew.check_paths(output, jobs, [one for one in (session, cells) if one is not None])
        if not journal.frozen:
            journal.freeze({**_chosen(session), "then": cells and _chosen(cells), "max_ram": options.max_ram})
        progress = progress or Progress()
        if isinstance(file.spec.decoder, ClassOf):
            failures = _classify_all(jobs, session, options, journal, stop, progress)
        else:
            speed = network_speed(file, session, asked)
            label = partial(label_file if crew is None else crew.label_file, then=cells, voxels_per_s=speed)
            at_once = 1 if crew is None else crew.files_at_once
            failures = _run_all(jobs, partial(label, session=session), options, journal, at_once, stop, progress)
        described = session.describe() | ({} if cells is None else {"then": cells.describe()})
        _finish(journal, failures, (file, second), options, described, memory, time.perf_counter() - begun)
    if failures:
        raise PartialFailure(
            f"{len(failures)} of {len(jobs)} inputs failed, first {failures[0]['hint'].rstrip('.')}; "
            f"{'the others are done' if len(failures) < len(jobs) else 'nothing is done'}: "
            f"see {output / 'failures.csv'}, mend them, and run the same command again."
        )
    return Summary(journal.finished, failures, described, task=file.spec.task)


def plan_files(
    inputs: Sequence[str], model: str, output: Path, options: InferOptions, device: Device
) -> list[Forecast]:
    """What `infer_files` would do with the same arguments, and what it would take. Writes nothing.

    Raises what it would raise before any work, also where the disk of `output` is too small.
    """
    file = read_model_file(resolve_model(model))
    if isinstance(file.spec.decoder, ClassOf):
        raise UsageError(f"--plan: {file.spec.name} classifies crops, which takes no plan; leave it out.")
    jobs = _jobs(find_inputs(inputs))
    check_tile(file.spec, options)
    asked: Plain = {"backend": device.backend, "precision": device.precision, "device": device.device}
    with open_session(file.path, **asked, max_vram=options.max_vram) as session:
        speed = network_speed(file, session, asked)
        return [plan_job(job, output, session, options, speed) for job in jobs]


def read_models(model: str, then: str | None) -> tuple[ModelFile, ModelFile | None]:
    """The files of a model and of the classifier of its cells, checked alone and together."""
    file = read_model_file(resolve_model(model))
    second = None if then is None else read_model_file(resolve_model(then))
    if second is not None:
        check_classifier(second.spec, file.spec)
    return file, second


def _chosen(session: Session) -> Plain:
    """What a resumed run must open its session with."""
    return {"backend": session.backend, "precision": session.precision, "device": session.device}


def _jobs(found: Sequence[InputFile]) -> list[Job]:
    """The inputs with names that differ: those of one name from different folders are called by what differs."""
    stems = output_stems(found)
    shared = Counter(item.relative for item in found)
    names = [s if shared[item.relative] > 1 else item.relative for item, s in zip(found, stems, strict=True)]
    return [
        Job(name.as_posix(), item.path, fingerprint(item.path), stem)
        for name, item, stem in zip(names, found, stems, strict=True)
    ]


def _check_unchanged(jobs: Sequence[Job], journal: Journal) -> None:
    """Refuse to go on when an input that is finished has changed since; one that failed may have been mended."""
    for job in jobs:
        if job.name in journal.finished and journal.finished[job.name].get("input") != job.fingerprint:
            raise UsageError(
                f"{journal.folder} holds another run ({job.name} has changed since it was labelled): "
                "add --restart to replace it, or choose another -o."
            )
        if journal.frozen and job.name not in journal.finished:
            check_input(scratch_folder(journal.folder / job.stem), job.name, job.fingerprint)


def _open_crew(name: str) -> AbstractContextManager[Crew]:
    from cellengine.engine.cluster.crew import open_crew  # loads dask

    return open_crew(name)


def _run_all(
    jobs: Sequence[Job],
    label: Callable[..., Plain],
    options: InferOptions,
    journal: Journal,
    at_once: int,
    stop: Stop,
    progress: Progress,
) -> list[Plain]:
    """Label what is not finished, `at_once` jobs at a time; the failures. `label` is `label_file` for a session."""
    failures: list[Plain] = []
    run = hashlib.sha256(json.dumps(journal.identity, sort_keys=True).encode()).hexdigest()
    todo = []
    for number, job in enumerate(jobs, 1):
        if job.name in journal.finished:
            remove(scratch_folder(journal.folder / job.stem))  # of a run that was killed between the record and this
        else:
            todo.append((job, _numbered(progress, number, len(jobs))))

    def one(item: tuple[Job, Progress]) -> Plain | InputError | UsageError:
        job, told = item
        stop.check()
        try:
            return label(job, journal.folder, options=options, stop=stop, progress=told, run=run)
        except (InputError, UsageError) as error:
            return error

    found = overlap(one, todo, at_once, stop) if at_once > 1 else (one(item) for item in todo)
    with closing(found):
        for (job, _), record in zip(todo, found, strict=True):
            if not isinstance(record, Exception):
                journal.add(job.name, record)
                remove(scratch_folder(journal.folder / job.stem))
            elif len(jobs) == 1 or options.on_error == "stop":
                journal.forget()
                raise record
            else:
                failures.append(_failure(job.name, "infer", record))
    return failures


def _classify_all(
    jobs: Sequence[Job], session: Session, options: InferOptions, journal: Journal, stop: Stop, progress: Progress
) -> list[Plain]:
    """Every input is a crop, and a row of one table. Crops take so little that a run that was stopped starts over."""
    files = {job.name: job.path for job in jobs}
    try:
        records, failed = classify_into(journal.folder, files, session, options, stop, progress)
    except (InputError, UsageError):
        journal.forget()
        raise
    journal.finished |= {
        job.name: {**records[job.name], "input": job.fingerprint} for job in jobs if job.name in records
    }
    return [_failure(name, "classify", error) for name, error in failed.items()]


def _failure(name: str, stage: str, error: Exception) -> Plain:
    """A row of failures.csv."""
    return {"file": name, "stage": stage, "error": type(error).__name__, "hint": str(error)}


def _numbered(progress: Progress, number: int, count: int) -> Progress:
    """Progress that says which file of how many it is."""
    return replace(progress, begin=lambda name, tiles: progress.begin(f"file {number}/{count} {name}", tiles))


def _identity(
    jobs: Sequence[Job], file: ModelFile, then: ModelFile | None, options: InferOptions, device: Device
) -> Plain:
    return {
        "inputs": [job.name for job in jobs],
        "model": file.sha256,
        "then": then and then.sha256,
        "settings": options.identity(),
        "device": [device.device, device.backend, device.precision],
        "versions": deciding_versions(),
    }


def _finish(
    journal: Journal,
    failures: list[Plain],
    models: tuple[ModelFile, ModelFile | None],
    options: InferOptions,
    session: Plain,
    memory: MemoryTrace,
    seconds: float,
) -> None:
    """failures.csv when there are any, the report, and run.json, which ends the run."""
    path = journal.folder / "failures.csv"
    if failures:
        columns: dict[str, Any] = {k: [f[k] for f in failures] for k in ("file", "stage", "error", "hint")}
        write_table(path, columns)
    else:
        path.unlink(missing_ok=True)
    run: Plain = {
        **{
            key: {"name": file.spec.name, "file": file.path.name, "sha256": file.sha256}
            for key, file in zip(("model", "then"), models, strict=True)
            if file is not None
        },
        "session": session,
        "settings": options.identity(),
        "files": journal.finished,
        "failures": failures,
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak_memory_bytes(),
        "machine": {"processor": cpu_name(), "processors": cpu_count()},
        "versions": versions(),
    }
    write_report(journal.folder, run, memory.points)
    journal.close(run, complete=not failures)
