"""The record of a run in its output folder: who it is, what is finished. A line counts once it is on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cellengine.errors import LockedError, ResourceError, UsageError
from cellengine.io.sink import remove, writing

JOURNAL, LOCK, RUN, SCRATCH = ".journal.jsonl", ".lock", "run.json", ".scratch"

Plain = dict[str, Any]


@contextmanager
def hold_output(folder: Path) -> Iterator[None]:
    """Create the output folder and hold it for this run; a lock left by a dead process is taken over.

    Raises LockedError when another run is at work there, ResourceError when the folder cannot be written.
    """
    if folder.is_file():
        raise UsageError(f"The output {folder} is a file, expected a folder: choose another -o.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe.partial"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ResourceError(f"The output {folder} cannot be written ({error.strerror}): choose another -o.") from error
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise LockedError(f"Another run is writing to {folder}: wait for it, or choose another -o.") from error
    try:
        yield
    finally:
        lock.release()


class Journal:
    """Finished files of one run. Lines of JSON, each flushed to disk; a last line cut by a crash is ignored."""

    def __init__(
        self,
        folder: Path,
        identity: Plain,
        frozen: Plain,
        finished: dict[str, Plain],
        complete: bool,
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.frozen = frozen
        """choices made by the first session of the run (backend, precision) that every later one keeps"""
        self.finished = finished
        """input -> its record"""
        self.complete = complete
        """whether the run has ended before: nothing is left to do"""

    def add(self, name: str, record: Plain) -> None:
        """Note that the input `name` is finished; its outputs are in place before this is called."""
        self.finished[name] = record
        self._append({"finished": name, "record": record})

    def freeze(self, frozen: Plain) -> None:
        """Fix the choices that a resumed run must repeat."""
        self.frozen = frozen
        self._append({"identity": self.identity, "frozen": frozen})

    def forget(self) -> None:
        """Let go of a run that has finished nothing: the command that was refused may be mended and given again."""
        if not self.finished:
            (self.folder / JOURNAL).unlink(missing_ok=True)

    def close(self, run: Plain, *, complete: bool) -> None:
        """Write run.json; it takes the place of the journal unless failures are left for the same command to retry."""
        write_json(self.folder / RUN, {**run, "complete": complete, "identity": self.identity})
        if complete:
            (self.folder / JOURNAL).unlink(missing_ok=True)

    def _append(self, line: Plain) -> None:
        path = self.folder / JOURNAL
        # a crash may have left half a line without its end
        torn = _last_byte(path) not in (b"", b"\n")
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def open_journal(folder: Path, identity: Plain, *, restart: bool) -> Journal:
    """Go on with the run that `folder` holds, or begin one.

    Raises UsageError when it holds a run of another identity, naming what differs; `restart` forgets that run.
    """
    identity = json.loads(json.dumps(identity))
    if restart:
        for scratch in folder.rglob(f".*{SCRATCH}/log"):
            remove(scratch.parent)
        for name in (JOURNAL, RUN):
            (folder / name).unlink(missing_ok=True)
    if (folder / RUN).exists() and not (folder / JOURNAL).exists():
        run = read_json(folder / RUN)
        _check_same(folder, run.get("identity", {}), identity)
        return Journal(folder, identity, {}, run.get("files", {}), complete=True)
    lines = list(_lines(folder / JOURNAL))
    if not lines:
        return Journal(folder, identity, {}, {}, complete=False)
    _check_same(folder, lines[0].get("identity", {}), identity)
    finished = {line["finished"]: line["record"] for line in lines if "finished" in line}
    return Journal(folder, identity, lines[0].get("frozen", {}), finished, complete=False)


def _last_byte(path: Path) -> bytes:
    """Nothing of a file that is empty or not there."""
    if not path.exists() or path.stat().st_size == 0:
        return b""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read()


def read_records(folder: Path) -> tuple[dict[str, Plain], bool]:
    """The records of the inputs that the run in `folder` has finished, and whether it has ended.

    Raises UsageError when there is no run.
    """
    if (folder / JOURNAL).exists():
        return {line["finished"]: line["record"] for line in _lines(folder / JOURNAL) if "finished" in line}, False
    if not (folder / RUN).is_file():
        raise UsageError(f"{folder} holds no run of `cellengine infer`: give the folder that was its -o.")
    run = read_json(folder / RUN)
    return run.get("files", {}), bool(run.get("complete"))


def write_json(path: Path, value: Plain) -> None:
    """Write JSON whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)


def _check_same(folder: Path, before: Plain, now: Plain) -> None:
    if parts := differences(before, now):
        raise UsageError(f"{folder} holds another run ({parts}): add --restart to replace it, or choose another -o.")


def differences(before: Plain, now: Plain) -> str:
    """What two records do not share, as "settings.tile: null then, [64] now; ..."; empty when they are equal."""
    old, new = _flat(before), _flat(now)
    differing = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    return "; ".join(f"{k}: {_short(old.get(k))} then, {_short(new.get(k))} now" for k in differing)


def _flat(record: Plain, prefix: str = "") -> Plain:
    """A record of records as one, with names joined by dots."""
    flat: Plain = {}
    for key, value in record.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _lines(path: Path) -> Iterator[Plain]:
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict):
            yield line


def read_json(path: Path) -> Plain:
    """A record written by `write_json`. Raises UsageError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is not a record of a run ({error}): add --restart, or choose another -o.") from error
    return value if isinstance(value, dict) else {}
