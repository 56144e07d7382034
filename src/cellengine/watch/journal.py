"""What a watcher knows, on disk: every picture it has seen, and what became of it. Memory holds nothing of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellengine.errors import UsageError
from cellengine.watch.database import Database
from cellengine.watch.pictures import State

MOST_FAILURES = 3
"""after so many a picture is set aside, until it changes"""
MOST_DEATHS = 5
"""as often may the program die while a picture is in work before the picture is blamed; power cuts count, too"""

Plain = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture whose turn has come."""

    id: int
    name: str
    """relative to the watched folder"""
    size: int
    changed_ns: int
    arrived_ns: int
    failures: int
    stem: str | None
    """where its outputs go, below the output folder, once that is decided"""


@dataclass(frozen=True, slots=True)
class Finished:
    """What is kept of a picture that was labelled."""

    finished: float
    """s since 1970"""
    latency_s: float
    """from the complete file to the written results"""
    seconds: float
    objects: int
    classes: Mapping[str, int]
    record: Plain


class Journal(Database):
    """The record of one watcher. Any thread may call it; a change is on disk when the call returns."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # pictures rest by a clock that nobody can set while the program runs
        self._ahead_s = time.time() - time.monotonic()

    def _now(self) -> float:
        """Seconds since 1970 as they were when the journal was opened, and steady ones since."""
        return self._ahead_s + time.monotonic()

    def setting(self, key: str) -> Any:
        """A value kept by `keep`, or None."""
        row = self.one("SELECT value FROM settings WHERE key = ?", key)
        return None if row is None else json.loads(row["value"])

    def keep(self, key: str, value: Any) -> None:
        """Keep a plain value under a name."""
        with self.changing() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, json.dumps(value)))

    def check_identity(self, identity: Plain) -> None:
        """Begin, or go on with the same work. UsageError when the folder holds that of another model or folder."""
        before, now = self.setting("identity"), json.loads(json.dumps(identity))
        if before is None:
            self.keep("identity", now)
            return
        differing = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        if differing:
            parts = "; ".join(f"{k}: {before.get(k)} then, {now.get(k)} now" for k in differing)
            raise UsageError(f"{self.path.parent} holds the results of another watch ({parts}): choose another -o.")

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Those of at most some hundred names that the journal does not have."""
        marks = ",".join("?" * len(names))
        rows = self.all(f"SELECT name FROM pictures WHERE name IN ({marks})", *names)
        known = {row["name"] for row in rows}
        return [name for name in names if name not in known]

    def kind(self, name: str) -> str | None:
        """What a picture is: waiting, running, done, failed, or a part of another; None when it is not known."""
        row = self.one("SELECT kind FROM pictures WHERE name = ?", name)
        return None if row is None else str(row["kind"])

    def see(self, seen: Iterable[tuple[str, State]], settle_s: float) -> list[str]:
        """Note pictures as they are now. New and changed ones wait until they have rested for `settle_s`.

        Returns the names of those that changed after they were labelled: their results are of the earlier state.
        """
        late = []
        with self.changing() as db:
            due = self._now() + settle_s
            for name, state in seen:
                row = db.execute("SELECT * FROM pictures WHERE name = ?", (name,)).fetchone()
                if row is None:
                    db.execute(
                        "INSERT INTO pictures (name, kind, size, changed_ns, arrived_ns, due) "
                        "VALUES (?, 'waiting', ?, ?, ?, ?)",
                        (name, state.size, state.changed_ns, min(state.arrived_ns, time.time_ns()), due),
                    )
                    continue
                same = (row["size"], row["changed_ns"]) == (state.size, state.changed_ns)
                if same or row["parts"] > 1 or row["kind"] in ("running", "part"):
                    continue
                kind = "waiting" if row["kind"] == "failed" else row["kind"]
                db.execute(
                    "UPDATE pictures SET kind = ?, size = ?, changed_ns = ?, due = ?, failures = 0, deaths = 0 "
                    "WHERE id = ?",
                    (kind, state.size, state.changed_ns, due, row["id"]),
                )
                if kind == "done":
                    late.append(name)
        return late

    def failed_names(self) -> Iterator[str]:
        """The pictures that were set aside, some at a time."""
        last = -1
        query = "SELECT id, name FROM pictures WHERE kind = 'failed' AND id > ? ORDER BY id LIMIT 500"
        while rows := self.all(query, last):
            yield from (row["name"] for row in rows)
            last = rows[-1]["id"]

    def next(self) -> Entry | None:
        """The picture that arrived first among those that have rested long enough."""
        row = self.one(
            "SELECT id, name, size, changed_ns, arrived_ns, failures, stem FROM pictures "
            "WHERE kind = 'waiting' AND +due <= ? ORDER BY arrived_ns, id LIMIT 1",
            self._now(),
        )
        return None if row is None else Entry(*row)

    def seconds_to_next(self) -> float | None:
        """How long until a picture may have rested long enough; None when none waits."""
        row = self.one("SELECT due FROM pictures WHERE kind = 'waiting' ORDER BY due LIMIT 1")
        return None if row is None else max(0.0, row["due"] - self._now())

    def postpone(self, entry: Entry, seconds: float, state: State | None = None, note: str = "") -> None:
        """Look at a picture again later; with the state in which it was found now."""
        size, changed = (state.size, state.changed_ns) if state else (entry.size, entry.changed_ns)
        with self.changing() as db:
            db.execute(
                "UPDATE pictures SET kind = 'waiting', size = ?, changed_ns = ?, due = ?, note = ? WHERE id = ?",
                (size, changed, self._now() + seconds, note, entry.id),
            )

    def forget(self, entry: Entry) -> None:
        """A picture that is gone before it was its turn."""
        with self.changing() as db:
            db.execute("DELETE FROM pictures WHERE id = ?", (entry.id,))

    def join(self, entry: Entry, owner: str) -> None:
        """A file turned out to be a part of the picture `owner`, which it may have been waiting for."""
        with self.changing() as db:
            db.execute(
                "UPDATE pictures SET kind = 'waiting', failures = 0, due = 0 WHERE name = ? AND kind = 'failed'",
                (owner,),
            )
            db.execute("UPDATE pictures SET kind = 'part', note = ? WHERE id = ?", (owner, entry.id))

    def begin(self, entry: Entry, stems: Iterable[str]) -> str:
        """A picture goes to work. Returns its stem: the one it has, or the first of `stems` that is free."""
        with self.changing() as db:
            stem = entry.stem
            for candidate in () if stem else stems:
                taken = db.execute("SELECT 1 FROM pictures WHERE stem = ? COLLATE NOCASE", (candidate,)).fetchone()
                if taken is None:
                    stem = candidate
                    break
            stem = stem or f"{entry.name}.{entry.id}"
            db.execute("UPDATE pictures SET kind = 'running', stem = ?, note = '' WHERE id = ?", (stem, entry.id))
        return stem

    def put_back(self, entry: Entry) -> None:
        """A picture was in work and is not finished; it is the next one again, and nothing is held against it."""
        with self.changing() as db:
            db.execute("UPDATE pictures SET kind = 'waiting', due = 0 WHERE id = ?", (entry.id,))

    def fail(self, entry: Entry, reason: str, retry_s: float) -> bool:
        """A picture could not be used. Returns whether it is set aside now, after MOST_FAILURES of them."""
        count = entry.failures + 1
        final = count >= MOST_FAILURES
        with self.changing() as db:
            db.execute(
                "UPDATE pictures SET kind = ?, failures = ?, note = ?, due = ?, finished = ? WHERE id = ?",
                ("failed" if final else "waiting", count, reason, self._now() + retry_s, time.time(), entry.id),
            )
        return final

    def finish(self, entry: Entry, state: State, parts: Sequence[str], what: Finished) -> None:
        """A picture is labelled and its files are in place; `parts` are the files that belong to it."""
        with self.changing() as db:
            db.execute(
                "UPDATE pictures SET kind = 'done', size = ?, changed_ns = ?, parts = ?, note = '', failures = 0, "
                "deaths = 0, finished = ?, latency_s = ?, seconds = ?, objects = ?, record = ?, "
                "sequence = (SELECT COALESCE(MAX(sequence), 0) + 1 FROM pictures WHERE sequence IS NOT NULL) "
                "WHERE id = ?",
                (
                    *(state.size, state.changed_ns, max(1, len(parts)), what.finished, what.latency_s),
                    *(what.seconds, what.objects, json.dumps(what.record), entry.id),
                ),
            )
            db.execute("DELETE FROM classes WHERE picture = ?", (entry.id,))
            db.executemany(
                "INSERT INTO classes VALUES (?, ?, ?)", [(entry.id, name, n) for name, n in what.classes.items()]
            )
            for part in parts:
                if part != entry.name:
                    db.execute(
                        "INSERT INTO pictures (name, kind, size, changed_ns, arrived_ns, due, note) "
                        "VALUES (?, 'part', 0, 0, 0, 0, ?) "
                        "ON CONFLICT (name) DO UPDATE SET kind = 'part', note = excluded.note",
                        (part, entry.name),
                    )

    def recover(self) -> list[str]:
        """After a start: what was in work when the program died waits again. Returns the names.

        A picture that was in work at MOST_DEATHS deaths in a row is set aside: it may be what kills the program.
        """
        with self.changing() as db:
            rows = db.execute("SELECT id, name, deaths FROM pictures WHERE kind = 'running'").fetchall()
            for row in rows:
                deaths = row["deaths"] + 1
                kind = "failed" if deaths >= MOST_DEATHS else "waiting"
                note = f"the program ended {deaths} times in a row while this picture was in work"
                db.execute(
                    "UPDATE pictures SET kind = ?, deaths = ?, note = ?, due = 0, finished = ? WHERE id = ?",
                    (kind, deaths, note if kind == "failed" else "", time.time(), row["id"]),
                )
            # clocks may have been set back since: nothing waits for a time that was reckoned by the old one
            db.execute("UPDATE pictures SET due = ? WHERE kind = 'waiting' AND due > ?", (self._now(),) * 2)
        return [row["name"] for row in rows]
