"""One input of a run, from the file to its outputs and the record of what was done; which road it takes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cellengine.engine.checkpoint import CACHE_PART, holds_checkpoint, open_checkpoint, scratch_folder
from cellengine.engine.classify import classes_of_objects
from cellengine.engine.detect_stream import stream_detected
from cellengine.engine.flow import Stop
from cellengine.engine.forecast import Forecast, check_disk, forecast
from cellengine.engine.infer import infer_source
from cellengine.engine.options import InferOptions
from cellengine.engine.outlines import write_outlines
from cellengine.engine.outputs import checksum, write_class_map, write_outputs
from cellengine.engine.pieces import Hands
from cellengine.engine.plan import Plan, ram_limit
from cellengine.engine.plan_blocks import Streaming
from cellengine.engine.resample import size_unknown
from cellengine.engine.run import Progress
from cellengine.engine.session import Session
from cellengine.engine.stream import stream_source
from cellengine.errors import InputError
from cellengine.io import ImageSource, open_source
from cellengine.io.opening import DEFAULT_CACHE_BYTES
from cellengine.io.sink import writing
from cellengine.spec import ArgMax

Plain = dict[str, Any]

Others = Callable[["Job", Plan, Streaming, Path], Hands]
"""who works on the pieces of a job, given how it is cut and where the file of its scores is"""


@dataclass(frozen=True, slots=True)
class Job:
    """One input: what it is called in the records, what it was when the run began, and where its outputs go."""

    name: str
    path: Path
    fingerprint: Plain
    stem: Path
    """below the output folder"""


def plan_job(job: Job, output: Path, session: Session, options: InferOptions, speed: float | None) -> Forecast:
    """What `label_file` would do and take, `speed` being that of the network in voxels a second, if known.

    Raises what it would raise before any work, also where the disk of `output` is too small.
    """
    with open_job(job, options) as source:
        how: Plain = {"is_zarr": job.path.is_dir(), "voxels_per_s": speed}
        found = forecast(source, session, options, output / job.stem, **how)
    check_disk(found, next(folder for folder in (output, *output.absolute().parents) if folder.is_dir()))
    return found


def label_file(
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
    others: Others | None = None,
) -> Plain:
    """Label one input into `output`, its files whole under their names when this returns; the record of what was done.

    What is finished of a large input lies in `scratch_folder(output / job.stem)`, to be removed when the record is
    safe; a call for the same input and settings under the same name `run` goes on from there. `voxels_per_s` is the
    speed of the network here, if known. `then` classifies the cells that the model of `session` finds. `others` do the
    work on tiles and blocks of an input that is labelled in blocks.

    Raises InputError for a picture that cannot be used, ResourceError for a full disk, Interrupted when `stop` says so.
    """
    with open_job(job, options) as source:
        warnings = _missing(source.name, source.missing_chunks(), options) + (
            size_unknown(source, session.spec) if options.resample else []
        )
        stem, how = output / job.stem, _Road(job, session, options, stop, progress, then, run, voxels_per_s, others)
        found, written = how.label(source, stem)
        if options.outlines and not isinstance(session.spec.decoder, ArgMax):
            begun = time.perf_counter()
            labels, table = (stem.with_name(name) for name in written[:2])
            written = [*written, write_outlines(options.outlines, stem, labels, table)]
            found["seconds"]["outlines"] = round(time.perf_counter() - begun, 4)
        if unfit := found["not_finite"]:
            warnings.append(f"{source.name}: {unfit} values that are NaN or infinite were taken as 0")
    outputs = [job.stem.with_name(name).as_posix() for name in written]
    return {
        **found,
        "source": os.fspath(job.path.absolute()),
        "input": job.fingerprint,
        "outputs": outputs,
        "sha256": {name: checksum(output / name) for name in outputs},
        "warnings": warnings,
    }


@dataclass(frozen=True, slots=True)
class _Road:
    """How one input is labelled: in memory, or with a checkpoint when it is large or takes long."""

    job: Job
    session: Session
    options: InferOptions
    stop: Stop
    progress: Progress
    then: Session | None
    run: str
    voxels_per_s: float | None
    others: Others | None

    def label(self, source: ImageSource, stem: Path) -> tuple[Plain, list[str]]:
        """Write the outputs `stem`; what is recorded of them, and their names."""
        work = (source, self.session, self.options, self.stop, self.progress)
        is_zarr, decoder = self.job.path.is_dir(), self.session.spec.decoder
        run = _name_of(self.run, self.session, self.options)
        expected = self._expect(source, stem, run)
        with writing(stem.parent):
            stem.parent.mkdir(parents=True, exist_ok=True)
        if expected.streaming is not None:
            how: Plain = {"is_zarr": is_zarr, "run": run, "fingerprint": self.job.fingerprint, "then": self.then}
            return stream_source(*work, stem, **how, others=self.others and partial(self.others, self.job))
        if not expected.resumable:
            if isinstance(decoder, ArgMax):
                return write_class_map(stem, *work, is_zarr=is_zarr)
            return self._in_memory(source, stem)
        folder, cache = scratch_folder(stem), ram_limit(self.options) // CACHE_PART
        frozen = expected.plan.frozen
        with open_checkpoint(folder, source.name, run, self.job.fingerprint, frozen, cache) as checkpoint:
            if isinstance(decoder, ArgMax):
                return write_class_map(stem, *work, is_zarr=is_zarr, checkpoint=checkpoint)
            return stream_detected(*work, stem, is_zarr=is_zarr, checkpoint=checkpoint, then=self.then)

    def _expect(self, source: ImageSource, stem: Path, run: str) -> Forecast:
        """What is to come. ResourceError when the disk has no room for it."""
        scratch = scratch_folder(stem)
        begun = holds_checkpoint(scratch, run)
        how: Plain = {"is_zarr": self.job.path.is_dir(), "voxels_per_s": self.voxels_per_s, "in_blocks": begun}
        expected = forecast(source, self.session, self.options, stem, **how)
        used = sum(path.stat().st_size for path in scratch.glob("*")) if begun else 0
        check_disk(expected, next(folder for folder in stem.parents if folder.is_dir()), used)
        return expected

    def _in_memory(self, source: ImageSource, stem: Path) -> tuple[Plain, list[str]]:
        result = infer_source(source, self.session, self.options, self.stop, self.progress, self.then)
        begun = time.perf_counter()
        how: Plain = {
            "is_zarr": self.job.path.is_dir(),
            "classes": classes_of_objects(self.session.spec, self.then),
        }
        written = write_outputs(stem, source, result, self.options, **how)
        found = result.run
        found["seconds"]["write"] = round(time.perf_counter() - begun, 4)
        found["seconds"]["total"] = round(found["seconds"]["total"] + found["seconds"]["write"], 4)
        return found, written


def open_job(job: Job, options: InferOptions) -> ImageSource:
    """The image of an input."""
    return open_source(
        job.path,
        axes=options.axes,
        dataset=options.dataset,
        voxel_size_um=options.voxel_size_um,
        cache_bytes=min(DEFAULT_CACHE_BYTES, ram_limit(options) // 16),
    )


def _name_of(run: str, session: Session, options: InferOptions) -> str:
    """A name that two calls share when they would find the same."""
    facts = [run, session.spec.to_json(), session.backend, session.device, session.precision, options.identity()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _missing(name: str, count: int, options: InferOptions) -> list[str]:
    """Absent chunks read as zeros, which may be right; the user decides whether that is an error."""
    if not count:
        return []
    message = f"{name}: {count} stored chunks are absent and read as 0"
    if options.missing == "error":
        raise InputError(f"{message}: copy the file again, or accept them with --missing warn.")
    return [message]
