"""`infer` on files and folders: one output folder, a journal, and one bad file that does not spoil the others."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cellengine.engine.backends import open_session
from cellengine.engine.backends.hardware import cpu_count, cpu_name
from cellengine.engine.checkpoint import check_input, scratch_folder
from cellengine.engine.classify import check_classifier
from cellengine.engine.crops import classify_into
from cellengine.engine.environment import peak_memory_bytes, versions
from cellengine.engine.flow import Stop, stop_on_signals
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

Plain = dict[str, Any]

IRRELEVANT = ("python", "torch", "onnx")
"""versions that do not decide what `infer` finds"""


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
    progress: Progress | None = None,
) -> Summary:
    """Label every input into `output`; go on where an earlier call of the same run stopped.

    Nothing is read or written before the model, the inputs and the output are known to be usable. Raises the error of
    a single bad input as it is; of several inputs the good ones are finished and PartialFailure is raised at the end.
    `then`: a classifier for the cells that the model finds. A model that is a classifier itself takes every input as a
    crop and writes one table, `classes.csv`.
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
        session = opened.enter_context(open_session(file.path, **frozen, max_vram=options.max_vram))
        cells = (
            None
            if second is None
            else opened.enter_context(open_session(second.path, **frozen_then, max_vram=options.max_vram))
        )
        if not journal.frozen:
            journal.freeze({**_chosen(session), "then": cells and _chosen(cells), "max_ram": options.max_ram})
        progress = progress or Progress()
        if isinstance(file.spec.decoder, ClassOf):
            failures = _classify_all(jobs, session, options, journal, stop, progress)
        else:
            speed = network_speed(file, session, asked)
            failures = _run_all(jobs, session, cells, options, journal, speed, stop, progress)
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


def _run_all(
    jobs: Sequence[Job],
    session: Session,
    then: Session | None,
    options: InferOptions,
    journal: Journal,
    speed: float | None,
    stop: Stop,
    progress: Progress,
) -> list[Plain]:
    failures: list[Plain] = []
    run = hashlib.sha256(json.dumps(journal.identity, sort_keys=True).encode()).hexdigest()
    for number, job in enumerate(jobs, 1):
        scratch = scratch_folder(journal.folder / job.stem)
        if job.name in journal.finished:
            remove(scratch)  # of a run that was killed between the record and this
            continue
        stop.check()
        told = _numbered(progress, number, len(jobs))
        try:
            how: Plain = {"then": then, "run": run, "voxels_per_s": speed}
            record = label_file(job, journal.folder, session, options, stop, told, **how)
        except (InputError, UsageError) as error:
            if len(jobs) == 1 or options.on_error == "stop":
                journal.forget()
                raise
            failures.append(_failure(job.name, "infer", error))
        else:
            journal.add(job.name, record)
            remove(scratch)
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
        "versions": {name: version for name, version in versions().items() if name not in IRRELEVANT},
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
