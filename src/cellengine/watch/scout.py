"""Who finds the pictures: what the operating system reports, and walks through the folder for what it does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from watchfiles import watch

from cellengine.errors import DiskFull
from cellengine.watch.journal import Journal
from cellengine.watch.pictures import ZARR, Folder, State, state_of

WALK_EVERY_S = 5.0
"""network drives report nothing, and reports can be lost: the folder is walked so often, ..."""
WALK_SHARE = 1 / 20
"""... but no more than this share of the time is spent on it"""
AT_ONCE = 500
"""pictures that are looked up and noted in one transaction"""
MANY_CHANGES = 5000
"""reports of more changes than this are answered by a walk"""


class Scout(threading.Thread):
    """Notes new and changed pictures in the journal. An error of the thread is raised by `check`."""

    def __init__(
        self, folder: Folder, journal: Journal, settle_s: float, wake: threading.Event, say: Callable[[str], None]
    ) -> None:
        super().__init__(name="scout", daemon=True)
        self.walked = threading.Event()
        """set once the whole folder has been seen"""
        self._folder, self._journal, self._settle_s = folder, journal, settle_s
        self._wake, self._say = wake, say
        self._ending = threading.Event()
        self._error: BaseException | None = None
        self._next_walk = 0.0
        self._unspeakable: set[str] = set()

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread and wait for it."""
        self._ending.set()
        self.join()

    def run(self) -> None:
        """See `threading.Thread.run`."""
        try:
            for changed in self._changes():
                try:
                    self._note(changed)
                    if time.monotonic() >= self._next_walk:
                        self._walk()
                except DiskFull:
                    # nothing can be noted now; the next walk finds everything again, and the worker says why it waits
                    self._next_walk = time.monotonic() + WALK_EVERY_S
        except BaseException as error:  # noqa: BLE001 - whatever it is, the main thread must hear of it
            self._error = error
        finally:
            self.walked.set()
            self._wake.set()

    def _changes(self) -> Iterator[set[Path]]:
        """Changed paths as they are reported, and nothing at all from time to time."""
        yield set()
        try:
            reports = watch(
                self._folder.base,
                watch_filter=None,
                debounce=300,
                step=50,
                rust_timeout=500,
                yield_on_timeout=True,
                stop_event=self._ending,
                raise_interrupt=False,
                ignore_permission_denied=True,
            )
            for report in reports:
                yield {Path(path) for _, path in report}
        except (OSError, RuntimeError) as error:
            self._say(f"changes are not reported here ({error}): the folder is walked every {WALK_EVERY_S:.0f} s")
        while not self._ending.wait(0.5):
            yield set()

    def _note(self, changed: set[Path]) -> None:
        if len(changed) > MANY_CHANGES:
            self._next_walk = 0.0
            return
        names = {name for path in changed for name in self._folder.pictures_at(path)}
        for batch in _batches(iter(sorted(names)), AT_ONCE):
            self._see(batch)

    def _walk(self) -> None:
        """Look through the whole folder for what is not in the journal, and at what was set aside and may be mended."""
        begun = time.monotonic()
        for names in _batches(self._folder.walk(), AT_ONCE):
            if self._ending.is_set():
                return
            self._see(self._journal.unknown([name for name in names if self._can_be_noted(name)]))
        for names in _batches(self._journal.failed_names(), AT_ONCE):
            self._see(names)
        took = time.monotonic() - begun
        self._next_walk = time.monotonic() + max(WALK_EVERY_S, took / WALK_SHARE)
        self.walked.set()

    def _see(self, names: list[str]) -> None:
        seen = [
            (name, state) for name in names if self._can_be_noted(name) and (state := self._state(name)) is not None
        ]
        if not seen:
            return
        for name in self._journal.see(seen, self._settle_s):
            self._say(f"{name}: changed after it was labelled; its results are of the earlier picture")
        self._wake.set()

    def _state(self, name: str) -> State | None:
        path = self._folder.base / name
        if path.suffix.lower() == ZARR and self._journal.kind(name) in (None, "waiting") and path.is_dir():
            # many small files: they are added up once, when the folder should have come to rest
            now = time.time_ns()
            return State(-1, now, now)
        return state_of(path)

    def _can_be_noted(self, name: str) -> bool:
        """A name that is no text in the file system's encoding can stand in no table; it is said once."""
        try:
            name.encode()
        except UnicodeEncodeError:
            if name not in self._unspeakable and len(self._unspeakable) < AT_ONCE:
                self._unspeakable.add(name)
                self._say(f"{name!a} is left out: its name is not valid text; rename it")
            return False
        return True


def _batches(names: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(names, size)):
        yield batch
