"""How every kind of data is prepared: defects first, then item by item with a journal, then the summary."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellengine.engine.environment import versions
from cellengine.engine.flow import overlap, stop_on_signals
from cellengine.engine.journal import RUN, hold_output, open_journal, read_json
from cellengine.engine.outputs import fingerprint
from cellengine.engine.run import Progress
from cellengine.errors import InputError
from cellengine.ops.threads import worker_count
from cellengine.records import RecordError, from_plain, to_plain

KEPT, LEFT_OUT = "kept", "left out"
DONE, SEEN = "done", "seen"
"""what run.json keeps of a finished run: the record of every item, and what the look before the work gave"""


@dataclass(frozen=True, slots=True)
class Defect:
    """Something wrong with the data, and what was done about it."""

    item: str
    """the picture, file or row"""
    problem: str
    consequence: str = LEFT_OUT


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item."""

    files: tuple[str, ...] = ()
    """what was written, below the output folder"""
    facts: dict[str, Any] = field(default_factory=dict)
    """plain values that the summary needs; none when the item was left out"""
    defects: tuple[Defect, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """One item of work."""

    name: str
    inputs: tuple[Path, ...]
    """files whose size and time tell whether an item that is finished is still the same"""
    work: Callable[[], Outcome]
    """may be called in any thread; InputError leaves the item out"""
    steps: int = 1
    """of progress; the job tells of all but the last itself"""
    given: str = ""
    """what decides the outcome beside the files and the settings of the run: rows of a table, say; see `digest`"""


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at names and headers gave, before anything is decoded."""

    jobs: tuple[Job, ...]
    defects: tuple[Defect, ...]
    sources: tuple[Path, ...] = ()
    """lists and tables that say what the items are: when one changes, the summary is made again"""


@dataclass(frozen=True, slots=True)
class Finished:
    """The summary as the command line prints it."""

    lines: tuple[str, ...]
    defects: int
    was_complete: bool = False


def _nothing(defects: Sequence[Defect]) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Control:
    """How a run is begun and whom it tells."""

    restart: bool = False
    """forget an earlier run in the same output"""
    progress: Progress = field(default_factory=Progress)
    announce: Callable[[Sequence[Defect]], None] = _nothing
    """hears of the defects that names and headers show, before the work begins"""


def unique_names(wanted: Iterable[str]) -> list[str]:
    """The names, those that come again with a number: a, a-2, b."""
    taken: dict[str, None] = {}
    for name in wanted:
        unique, number = name, 1
        while unique in taken:
            number += 1
            unique = f"{name}-{number}"
        taken[unique] = None
    return list(taken)


def digest(*parts: object) -> str:
    """A short text that changes with the parts, whose `repr` must hold all of them."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


Summarise = Callable[[Mapping[str, Outcome], Sequence[Defect]], Sequence[str]]
"""writes lists, report and overview from the outcomes (those that were left out are not among them) and all defects,
and returns what to print"""


def run_jobs(
    output: Path,
    identity: Mapping[str, Any],
    found: Found,
    summarise: Summarise,
    *,
    control: Control | None = None,
    threads: int | None = None,
) -> Finished:
    """Do all jobs into `output` and sum up; the same call goes on after a kill, and redoes items that changed.

    `identity` says what would give other results (source and settings). An output that holds a finished run is left as
    it is where all its inputs are what they were; else the items that changed are made anew, and the summary. Raises
    UsageError for an output of another identity, LockedError while another run holds it, InputError when no item is
    usable, Interrupted after a signal.
    """
    control = control or Control()
    with hold_output(output):
        journal = open_journal(output, dict(identity), restart=control.restart)
        prints = {job.name: [*map(_print, job.inputs), *([job.given] if job.given else [])] for job in found.jobs}
        seen = {"sources": [*map(_print, found.sources)], "defects": to_plain(found.defects)}
        if journal.complete:
            run = read_json(output / RUN)
            journal.finished = run.get(DONE, {})
            if run.get(SEEN) == seen and _all_hold(journal.finished, prints, output):
                return Finished((), 0, was_complete=True)
        if not journal.frozen:
            journal.freeze(versions())
            for name, record in journal.finished.items():
                journal.add(name, record)
        control.announce(found.defects)
        outcomes = {job.name: _finished(journal.finished.get(job.name), prints[job.name], output) for job in found.jobs}
        todo = [job for job in found.jobs if outcomes[job.name] is None]
        control.progress.begin(str(identity.get("command", "prepare")), sum(job.steps for job in found.jobs))
        control.progress.advance(sum(job.steps for job in found.jobs) - sum(job.steps for job in todo))
        with stop_on_signals() as stop:
            results = overlap(_attempt, todo, threads or min(4, worker_count()), stop)
            for job, outcome in zip(todo, results, strict=True):
                journal.add(job.name, {"inputs": prints[job.name], **to_plain(outcome)})
                outcomes[job.name] = outcome
                control.progress.advance(1)
        done = {name: outcome for name, outcome in outcomes.items() if outcome is not None}
        defects = [*found.defects, *(defect for outcome in done.values() for defect in outcome.defects)]
        usable = {name: outcome for name, outcome in done.items() if outcome.facts}
        if not usable:
            open_journal(output, dict(identity), restart=True)  # nothing is worth going on from
            first = f"; the first: {defects[0].item}: {defects[0].problem}" if defects else ""
            raise InputError(f"No item is usable, {len(defects)} defects were found{first}.")
        lines = tuple(summarise(usable, defects))
        kept = {name: journal.finished[name] for name in prints}
        journal.close({"items": len(usable), "defects": len(defects), SEEN: seen, DONE: kept}, complete=True)
        return Finished(lines, len(defects))


def _attempt(job: Job) -> Outcome:
    try:
        return job.work()
    except InputError as error:
        return Outcome(defects=(Defect(job.name, str(error)),))


def _print(path: Path) -> dict[str, object]:
    """A file by its place, size and time."""
    return {"path": str(path.resolve()), **fingerprint(path)}


def _all_hold(records: Mapping[str, Mapping[str, Any]], prints: Mapping[str, Sequence[Any]], output: Path) -> bool:
    """Whether a finished run did the same items from the same inputs, and all that it wrote is there."""
    return records.keys() == prints.keys() and all(
        record.get("inputs") == prints[name] and all((output / file).exists() for file in record.get("files", ()))
        for name, record in records.items()
    )


def _finished(record: Mapping[str, Any] | None, prints: Sequence[Any], output: Path) -> Outcome | None:
    """The outcome that an earlier run noted, if it still holds: same inputs, and all that was written is there."""
    if record is None or record.get("inputs") != list(prints):
        return None
    try:
        outcome = from_plain(Outcome, {key: value for key, value in record.items() if key != "inputs"})
    except RecordError:
        return None
    return outcome if outcome.facts and all((output / file).exists() for file in outcome.files) else None
