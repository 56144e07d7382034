"""`infer` on files and folders: one output folder, a journal, and one bad file that does not spoil the others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellengine.engine.backends import open_session
from cellengine.engine.environment import peak_memory_bytes, processor, processors, versions
from cellengine.engine.flow import Stop, stop_on_signals
from cellengine.engine.infer import Progress, infer_source
from cellengine.engine.journal import Journal, hold_output, open_journal
from cellengine.engine.model_file import ModelFile, read_model_file, resolve_model
from cellengine.engine.options import InferOptions
from cellengine.engine.outputs import fingerprint, write_outputs
from cellengine.engine.session import Session
from cellengine.errors import InputError, PartialFailure, UsageError
from cellengine.io import InputFile, find_inputs, open_source, output_stems, write_table

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


def infer_files(
    inputs: Sequence[str],
    model: str,
    output: Path,
    options: InferOptions,
    device: Device,
    *,
    restart: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Label every input into `output`; go on where an earlier call of the same run stopped.

    Nothing is read or written before the model, the inputs and the output are known to be usable. Raises the error of
    a single bad input as it is; of several inputs the good ones are finished and PartialFailure is raised at the end.
    """
    begun = time.perf_counter()
    file = read_model_file(resolve_model(model))
    found = find_inputs(inputs)
    stems = output_stems(found)
    with hold_output(output), stop_on_signals() as stop:
        journal = open_journal(output, _identity(found, file, options, device), restart=restart)
        if journal.complete:
            return Summary(journal.finished, already_complete=True)
        frozen = journal.frozen or {"backend": device.backend, "precision": device.precision, "device": device.device}
        with open_session(file.path, **frozen) as session:
            if not journal.frozen:
                chosen = {"backend": session.backend, "precision": session.precision, "device": session.device}
                journal.freeze(chosen)
            failures = _run_all(found, stems, output, session, options, journal, stop, progress or Progress())
            described = session.describe()
        _finish(journal, failures, file, options, described, time.perf_counter() - begun)
    if failures:
        raise PartialFailure(
            f"{len(failures)} of {len(found)} inputs failed, the others are done: see {output / 'failures.csv'}."
        )
    return Summary(journal.finished, failures, described)


def _run_all(
    found: Sequence[InputFile],
    stems: Sequence[Path],
    output: Path,
    session: Session,
    options: InferOptions,
    journal: Journal,
    stop: Stop,
    progress: Progress,
) -> list[Plain]:
    failures: list[Plain] = []
    for item, stem in zip(found, stems, strict=True):
        name = item.relative.as_posix()
        if name in journal.finished:
            continue
        stop.check()
        try:
            journal.add(name, _run_one(item, output / stem, session, options, stop, progress))
        except (InputError, UsageError) as error:
            if len(found) == 1 or options.on_error == "stop":
                raise
            failures.append({"file": name, "stage": "infer", "error": type(error).__name__, "hint": str(error)})
    return failures


def _run_one(
    item: InputFile, stem: Path, session: Session, options: InferOptions, stop: Stop, progress: Progress
) -> Plain:
    with open_source(item.path, axes=options.axes) as source:
        warnings = _missing(source.name, source.missing_chunks(), options)
        result = infer_source(source, session, options, stop, progress)
        begun = time.perf_counter()
        written = write_outputs(stem, source, result, options, is_zarr=item.path.is_dir())
    seconds = result.run["seconds"] | {"write": round(time.perf_counter() - begun, 4)}
    return {**result.run, "seconds": seconds, "outputs": written, "warnings": warnings}


def _missing(name: str, count: int, options: InferOptions) -> list[str]:
    """Absent chunks read as zeros, which may be right; the user decides whether that is an error."""
    if not count:
        return []
    message = f"{name}: {count} stored chunks are absent and read as 0"
    if options.missing == "error":
        raise InputError(f"{message}: copy the file again, or accept them with --missing warn.")
    return [message]


def _identity(found: Sequence[InputFile], file: ModelFile, options: InferOptions, device: Device) -> Plain:
    return {
        "inputs": {item.relative.as_posix(): fingerprint(item.path) for item in found},
        "model": file.sha256,
        "settings": options.identity(),
        "device": [device.device, device.backend, device.precision],
        "cellengine": versions()["cellengine"],
    }


def _finish(
    journal: Journal, failures: list[Plain], file: ModelFile, options: InferOptions, session: Plain, seconds: float
) -> None:
    """failures.csv when there are any, and run.json, which ends the run."""
    path = journal.folder / "failures.csv"
    if failures:
        columns: dict[str, Any] = {k: [f[k] for f in failures] for k in ("file", "stage", "error", "hint")}
        write_table(path, columns)
    else:
        path.unlink(missing_ok=True)
    journal.close(
        {
            "model": {"name": file.spec.name, "file": file.path.name, "sha256": file.sha256},
            "session": session,
            "settings": options.identity(),
            "files": journal.finished,
            "failures": failures,
            "seconds": round(seconds, 3),
            "peak_memory_bytes": peak_memory_bytes(),
            "machine": {"processor": processor(), "processors": processors()},
            "versions": versions(),
        },
        complete=not failures,
    )


