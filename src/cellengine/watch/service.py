"""`watch`, the whole story: find a picture, wait until it is complete, label it, write it down, go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from cellengine.engine.backends import open_session
from cellengine.engine.batch import Device, read_models
from cellengine.engine.checkpoint import scratch_folder
from cellengine.engine.environment import versions
from cellengine.engine.flow import Stop, stop_on_signals
from cellengine.engine.job import Job, label_file
from cellengine.engine.journal import JOURNAL, RUN, hold_output
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import check_tile
from cellengine.engine.session import Session
from cellengine.errors import DeviceError, DiskFull, InputError, Interrupted, PartialFailure, UsageError
from cellengine.io import InputFile
from cellengine.io.sink import remove
from cellengine.spec import ClassOf
from cellengine.watch.database import FILE
from cellengine.watch.journal import Entry, Finished, Journal
from cellengine.watch.overview import counts
from cellengine.watch.pictures import Folder, State, series_of, state_of
from cellengine.watch.scout import Scout
from cellengine.watch.server import Address, Server
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


def watch_folder(
    folder: Path, model: str, output: Path, options: InferOptions, device: Device, how: WatchOptions, say: Say
) -> dict[str, int]:
    """Label every picture in `folder`, now and as they come, each once; returns how many are waiting, done and failed.

    Goes on where an earlier watcher of the same folder, model and settings stopped. Ends by a signal (Interrupted), or
    with `how.once` when nothing is left to do: then PartialFailure is raised if pictures were set aside. `say` is told
    one line for everything that happens. Memory does not grow with the number of pictures.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder to watch.")
    file, second = read_models(model, how.then)
    if isinstance(file.spec.decoder, ClassOf):
        raise UsageError(f"{file.spec.name} classifies cells and finds none: give it as --then, beside another -m.")
    check_tile(file.spec, options)
    with ExitStack() as held:
        held.enter_context(hold_output(output))
        stop = held.enter_context(stop_on_signals())
        journal = _open_journal(output)
        held.callback(journal.close)
        asked = {"device": device.device, "backend": device.backend, "precision": device.precision}
        journal.check_identity(
            {
                "folder": str(folder.resolve()),
                "model": file.sha256,
                "then": second and second.sha256,
                "settings": options.identity(),
                "device": asked,
            }
        )
        session = _open(held, journal, "session", file.path, asked)
        cells = None if second is None else _open(held, journal, "then", second.path, {**asked, "precision": None})
        journal.keep("versions", versions())
        place = Folder(folder.resolve(), output.resolve())
        status = Status(session.describe(), file.spec.name, place.base.name)
        worker = _Worker(place, journal, (session, cells), options, how, status, stop, say)
        if how.address is not None:
            server = Server(how.address, journal, status, output)
            held.enter_context(server)
            say(f"page: {server.url}")
        return worker.run()


def _open(held: ExitStack, journal: Journal, key: str, model: Path, asked: dict[str, Any]) -> Session:
    """A session as the first start chose it: what "auto" meant then it means for all pictures."""
    session: Session = held.enter_context(open_session(model, **(journal.setting(key) or asked)))
    journal.keep(key, {name: getattr(session, name) for name in ("backend", "precision", "device")})
    return session


def _open_journal(output: Path) -> Journal:
    if not (output / FILE).exists() and any((output / name).exists() for name in (JOURNAL, RUN)):
        raise UsageError(f"{output} holds a run of `cellengine infer`: choose another -o.")
    return Journal(output)


class _Worker:
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

    def run(self) -> dict[str, int]:
        """Work until a signal comes, or with `once` until nothing is left."""
        for name in self._journal.recover():
            self._say(f"{name}: was in work when the program ended; it is done again")
        scout = Scout(self._folder, self._journal, self._how.settle_s, self._wake, self._say)
        scout.start()
        self._say(f"watching {self._folder.base}, results go to {self._folder.output}")
        try:
            while True:
                self._stop.check()
                scout.check()
                entry = self._journal.next()
                if entry is not None:
                    self._take(entry)
                elif self._how.once and scout.walked.is_set() and self._journal.seconds_to_next() is None:
                    break
                else:
                    self._rest()
        finally:
            scout.close()
            write_tables(self._journal, self._folder.output)
        found = counts(self._journal)
        if found["failed"]:
            raise PartialFailure(
                f"{found['failed']} pictures were set aside, {found['done']} are labelled: "
                f"see {self._folder.output / 'failures.csv'}; a picture that is mended is tried again."
            )
        return found

    def _rest(self) -> None:
        """Wait for the next picture; the tables are brought up to date meanwhile, if that is not too often."""
        self._status.idle()
        if self._tables_old and time.monotonic() >= self._tables_due:
            begun = time.monotonic()
            write_tables(self._journal, self._folder.output)
            took = time.monotonic() - begun
            self._tables_old, self._tables_due = False, time.monotonic() + TABLES_EVERY_S + 20 * took
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
        job = Job(entry.name, path, {"bytes": state.size, "changed_ns": state.changed_ns}, Path(stem))
        progress = self._status.progress(entry.name)
        try:
            record = label_file(
                job, self._folder.output, self._session, self._options, self._stop, progress, then=self._cells
            )
            self._finish(entry, parts, state, record)
            remove(scratch_folder(self._folder.output / stem))
        except Interrupted:
            self._journal.put_back(entry)
            raise
        except DiskFull as error:
            self._wait_for_room(entry, str(error))
        except DeviceError:
            self._journal.put_back(entry)
            raise
        except Exception as error:  # noqa: BLE001 - one picture must not end the watch, whatever it does to a library
            self._fail(entry, error)

    def _finish(self, entry: Entry, parts: Sequence[str], state: State, record: dict[str, Any]) -> None:
        found = [s for name in parts if (s := state_of(self._folder.base / name)) is not None]
        if (
            found
            and (now := _together(found)) != state
            and (now.size, now.changed_ns) != (state.size, state.changed_ns)
        ):
            self._say(f"{entry.name}: changed while it was labelled; it is done again")
            self._journal.postpone(entry, self._how.settle_s, now)
            return
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

    def _wait_for_room(self, entry: Entry, reason: str) -> None:
        """The disk is full: say so, and wait until the picture can at least be put back."""
        self._status.pause(reason)
        self._say(f"paused: {reason}")
        for turn in range(1 << 30):
            self._sleep(ROOM_AGAIN_S[min(turn, len(ROOM_AGAIN_S) - 1)])
            try:
                self._journal.put_back(entry)
            except DiskFull:
                continue
            break
        self._status.pause("")
        self._say("goes on")

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
