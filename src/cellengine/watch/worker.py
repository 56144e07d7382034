"""One picture after the other: is it complete, label it, write it down; and what is done when that fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from cellengine.engine.checkpoint import is_of_other_input, scratch_folder
from cellengine.engine.flow import Stop
from cellengine.engine.job import Job, label_file
from cellengine.engine.options import InferOptions
from cellengine.engine.session import Session
from cellengine.errors import DeviceError, DiskFull, InputError, Interrupted, PartialFailure
from cellengine.io import InputFile
from cellengine.io.sink import remove, to_disk
from cellengine.watch.journal import Entry, Finished, Journal
from cellengine.watch.overview import counts, latest
from cellengine.watch.pictures import Folder, State, series_of, state_of
from cellengine.watch.scout import Scout
from cellengine.watch.server import Address
from cellengine.watch.status import Moment, Status
from cellengine.watch.tables import write_tables

LONGEST_WAIT_S = 0.5
"""a signal is heard at least so often"""
RETRY = 2.0
"""a picture that cannot be used is tried again after this many settling times, then after this many times as long"""
ROOM_AGAIN_S = (2.0, 5.0, 10.0, 30.0)
"""how long to wait for room on a full disk; the last is repeated"""
TABLES_EVERY_S = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How a folder is watched."""

    settle_s: float = 2.0
    """a picture is complete when its size and time of change have not changed for so long"""
    once: bool = False
    """end when everything that is there has been labelled"""
    then: str | None = None
    """a classifier for the cells that the model finds"""
    address: Address | None = None
    """where the live page is offered; None: nowhere"""


class Worker:
    """One picture after the other."""

    def __init__(
        self,
        folder: Folder,
        journal: Journal,
        sessions: tuple[Session, Session | None],
        options: InferOptions,
        how: WatchOptions,
        status: Status,
        stop: Stop,
        say: Say,
    ) -> None:
        self._folder, self._journal, self._options = folder, journal, options
        self._session, self._cells = sessions
        self._how, self._status, self._stop, self._say = how, status, stop, say
        self._wake = threading.Event()
        self._begun_ns = time.time_ns()
        self._tables_due = 0.0
        self._tables_old = True
        self._in_work: Entry | None = None
        """a picture that was begun and is neither finished nor put back"""
        self._pauses = 0
        """how often in a row the disk was found full"""
        self._device_failed: set[int] = set()
        """pictures since the last success that the device failed with"""

    def run(self) -> dict[str, int]:
        """Work until a signal comes, or with `once` until nothing is left."""
        for name in self._journal.recover():
            self._say(f"{name}: was in work when the program ended; it is done again")
        for row in latest(self._journal):
            remove(scratch_folder(self._folder.output / row["stem"]))  # the program may have ended just before this
        scout = Scout(self._folder, self._journal, self._how.settle_s, self._wake, self._say)
        scout.start()
        self._say(f"watching {self._folder.base}, results go to {self._folder.output}")
        try:
            while True:
                self._stop.check()
                scout.check()
                try:
                    if not self._step(scout):
                        break
                except DiskFull as full:
                    self._wait_for_room(str(full))
        finally:
            scout.close()
            if self._tables_old:
                with suppress(DiskFull):  # the next start writes them
                    write_tables(self._journal, self._folder.output)
        found = counts(self._journal)
        if found["failed"]:
            raise PartialFailure(
                f"{found['failed']} pictures were set aside, {found['done']} are labelled: "
                f"see {self._folder.output / 'failures.csv'}; a picture that is mended is tried again."
            )
        return found

    def _step(self, scout: Scout) -> bool:
        """Take the next picture, or wait for one. False when nothing is left to do, with `once`. Raises DiskFull from
        anywhere: what it was about is done again by the next call."""
        if self._in_work is not None:
            self._put_back(self._in_work)
        entry = self._journal.next()
        if entry is not None:
            self._take(entry)
        elif self._how.once and scout.walked.is_set() and self._journal.seconds_to_next() is None:
            self._write_tables()
            return False
        else:
            self._rest()
        if self._pauses:
            self._pauses = 0
            self._status.pause("")
            self._say("goes on")
        return True

    def _put_back(self, entry: Entry) -> None:
        """A picture was begun and is not finished: it is the next one again."""
        self._journal.put_back(entry)
        self._in_work = None

    def _write_tables(self) -> None:
        begun = time.monotonic()
        write_tables(self._journal, self._folder.output)
        now = time.monotonic()
        self._tables_old, self._tables_due = False, now + TABLES_EVERY_S + 20 * (now - begun)

    def _rest(self) -> None:
        """Wait for the next picture; the tables are brought up to date meanwhile, if that is not too often."""
        self._status.idle()
        if self._tables_old and time.monotonic() >= self._tables_due:
            self._write_tables()
        until = self._journal.seconds_to_next()
        self._wake.wait(LONGEST_WAIT_S if until is None else min(until, LONGEST_WAIT_S))
        self._wake.clear()

    def _take(self, entry: Entry) -> None:
        """Label a picture if it is complete; otherwise it waits on."""
        settle = self._how.settle_s
        path = self._folder.base / entry.name
        if state_of(path) is None:
            self._journal.forget(entry)
            return
        try:
            names = series_of(path)
        except InputError as error:
            self._fail(entry, error)
            return
        parts = [path.with_name(name) for name in names]
        if parts[0] != path and parts[0].exists():
            # the whole series is labelled when its first file has its turn
            self._journal.join(entry, parts[0].relative_to(self._folder.base).as_posix())
            return
        states = [state for part in parts if (state := state_of(part)) is not None]
        if len(states) < len(parts):
            missing = next(part.name for part in parts if not part.exists())
            self._wait_for_parts(entry, f"waits for {len(parts) - len(states)} of {len(parts)} files: {missing}")
            return
        state = _together(states)
        if (state.size, state.changed_ns) != (entry.size, entry.changed_ns):
            self._journal.postpone(entry, settle, state)
            return
        relative = [part.relative_to(self._folder.base).as_posix() for part in parts]
        self._label(entry, parts[0], relative, state)

    def _wait_for_parts(self, entry: Entry, note: str) -> None:
        """Some files of a series are not there yet; with `once` they will not come."""
        if self._how.once:
            self._fail(entry, InputError(f"{entry.name}: {note}"))
        else:
            self._journal.postpone(entry, max(self._how.settle_s, 2.0), note=note)

    def _label(self, entry: Entry, path: Path, parts: Sequence[str], state: State) -> None:
        file = InputFile(path, Path(entry.name))
        stem = self._journal.begin(entry, (file.stem.as_posix(), entry.name))
        self._in_work = entry
        job = Job(entry.name, path, {"bytes": state.size, "changed_ns": state.changed_ns}, Path(stem))
        scratch = scratch_folder(self._folder.output / stem)
        progress = self._status.progress(entry.name)
        try:
            if is_of_other_input(scratch, job.fingerprint):
                remove(scratch)  # the picture was replaced when a part of it was labelled
            record = label_file(
                job, self._folder.output, self._session, self._options, self._stop, progress, then=self._cells
            )
            self._finish(entry, parts, state, record)
        except Interrupted:
            with suppress(DiskFull):  # the next start finds that it was in work
                self._put_back(entry)
            raise
        except DiskFull:
            raise
        except DeviceError as error:
            self._fail_on_device(entry, error)
        except Exception as error:  # noqa: BLE001 - one picture must not end the watch, whatever it does to a library
            self._fail(entry, error)
        else:
            with suppress(OSError):  # the next start removes it
                remove(scratch)
        self._in_work = None

    def _finish(self, entry: Entry, parts: Sequence[str], state: State, record: dict[str, Any]) -> None:
        found = [s for name in parts if (s := state_of(self._folder.base / name)) is not None]
        now = _together(found) if found else state
        if (now.size, now.changed_ns) != (state.size, state.changed_ns):
            self._say(f"{entry.name}: changed while it was labelled; it is done again")
            self._journal.postpone(entry, self._how.settle_s, now)
            return
        # a power cut must not leave a record of files that were still on their way to the disk
        to_disk([self._folder.output / name for name in record["outputs"]], self._folder.output)
        # what was there before the watcher began is counted from then on
        complete_ns = max(state.changed_ns, min(state.arrived_ns, time.time_ns()), self._begun_ns)
        finished, seconds = time.time(), record["seconds"]
        what = Finished(
            finished,
            max(0.0, finished - complete_ns / 1e9),
            seconds["total"],
            record["objects"],
            _classes(record),
            record,
        )
        self._journal.finish(entry, state, parts, what)
        self._device_failed.clear()
        self._status.finished(Moment(finished, prod(record["shape"]), seconds.get("network", 0.0), what.seconds))
        self._tables_old = True
        took = f"{what.seconds:.2f} s, {what.latency_s:.2f} s after it was complete"
        self._say(f"{entry.name}: {what.objects} objects in {took}")

    def _fail(self, entry: Entry, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        wait = self._how.settle_s * RETRY ** (1 + entry.failures)
        final = self._journal.fail(entry, reason, wait)
        self._tables_old = True
        what = "set aside" if final else f"failed, tried again in {wait:.0f} s"
        self._say(f"{entry.name}: {what}: {reason}")

    def _fail_on_device(self, entry: Entry, error: DeviceError) -> None:
        """One picture that the device fails with may be to blame; with a second one it is the device."""
        self._device_failed.add(entry.id)
        if len(self._device_failed) > 1:
            self._put_back(entry)
            raise error
        self._fail(entry, error)

    def _wait_for_room(self, reason: str) -> None:
        """The disk is full: say so, and wait before it is tried again."""
        self._status.pause(reason)
        self._say(f"paused: {reason}")
        self._sleep(ROOM_AGAIN_S[min(self._pauses, len(ROOM_AGAIN_S) - 1)])
        self._pauses += 1

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._stop.check()
            time.sleep(min(left, LONGEST_WAIT_S))


def _together(states: Sequence[State]) -> State:
    return State(sum(s.size for s in states), max(s.changed_ns for s in states), max(s.arrived_ns for s in states))


def _classes(record: dict[str, Any]) -> dict[str, int]:
    """How much there is of each class, where the model tells classes: objects, or pixels of a class map."""
    classes: dict[str, dict[str, int]] = record.get("classes", {})
    return {name: entry["objects"] if "objects" in entry else entry["px"] for name, entry in classes.items()}
