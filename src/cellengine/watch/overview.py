"""What a journal holds, for the page, for other programs and for tables. Only questions; every answer is bounded.

A `+` before a column keeps SQLite from searching by it where walking along the order of the answer is faster.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any, Literal

from cellengine.watch.database import Database

Kind = Literal["waiting", "running", "done", "failed", "part"]
Plain = dict[str, Any]


def counts(journal: Database) -> dict[str, int]:
    """How many pictures are waiting, running, done, failed."""
    rows = journal.all("SELECT kind, COUNT(*) AS n FROM pictures GROUP BY kind")
    found = {row["kind"]: row["n"] for row in rows}
    return {kind: found.get(kind, 0) for kind in ("waiting", "running", "done", "failed")}


def objects(journal: Database) -> int:
    """All objects found so far."""
    row = journal.one("SELECT COALESCE(SUM(objects), 0) AS n FROM pictures WHERE kind = 'done'")
    return int(row["n"]) if row else 0


def results(journal: Database, after: int = 0, limit: int = 100) -> list[sqlite3.Row]:
    """Pictures in the order in which they were labelled, those after number `after`.

    Columns: sequence, the number in that order; id, name, stem, finished, latency_s, seconds, objects.
    """
    return journal.all(
        "SELECT sequence, id, name, stem, finished, latency_s, seconds, objects FROM pictures "
        "WHERE +kind = 'done' AND sequence > ? ORDER BY sequence LIMIT ?",
        *(after, limit),
    )


def latest(journal: Database, limit: int = 1) -> list[sqlite3.Row]:
    """The pictures labelled last, the newest first; columns as `results`."""
    return journal.all(
        "SELECT sequence, id, name, stem, finished, latency_s, seconds, objects FROM pictures "
        "WHERE +kind = 'done' AND sequence IS NOT NULL ORDER BY sequence DESC LIMIT ?",
        limit,
    )


def result(journal: Database, number: int) -> tuple[sqlite3.Row, Plain, dict[str, int]] | None:
    """One labelled picture, its record and its classes; None when there is no such."""
    row = journal.one("SELECT * FROM pictures WHERE kind = 'done' AND id = ?", number)
    if row is None:
        return None
    rows = journal.all("SELECT class, count FROM classes WHERE picture = ?", number)
    return row, json.loads(row["record"]), {r["class"]: r["count"] for r in rows}


def troubles(journal: Database, limit: int = 100) -> list[sqlite3.Row]:
    """Pictures that were set aside or failed once, or wait for something: name, kind, failures, note, finished."""
    return journal.all(
        "SELECT name, kind, failures, note, finished FROM pictures "
        "WHERE kind IN ('failed', 'waiting') AND note != '' ORDER BY kind, id DESC LIMIT ?",
        limit,
    )


def history(journal: Database, bins: int) -> list[Plain]:
    """Pictures, objects and classes over time, in at most `bins` steps of equal length that are not empty."""
    span = journal.one("SELECT MIN(finished) AS a, MAX(finished) AS b FROM pictures WHERE kind = 'done'")
    if span is None or span["a"] is None:
        return []
    step = max((span["b"] - span["a"]) / bins, 1.0)
    at = "CAST((finished - ?) / ? AS INTEGER)"
    rows = journal.all(
        f"SELECT {at} AS bin, COUNT(*) AS pictures, SUM(objects) AS objects FROM pictures "
        "WHERE kind = 'done' GROUP BY bin ORDER BY bin",
        *(span["a"], step),
    )
    found = {
        row["bin"]: {
            "time": span["a"] + row["bin"] * step,
            "pictures": row["pictures"],
            "objects": row["objects"],
            "classes": {},
        }
        for row in rows
    }
    by_class = journal.all(
        f"SELECT {at} AS bin, class, SUM(count) AS n FROM pictures JOIN classes ON picture = id "
        "WHERE kind = 'done' GROUP BY bin, class ORDER BY bin, class",
        *(span["a"], step),
    )
    for row in by_class:
        found[row["bin"]]["classes"][row["class"]] = row["n"]
    return list(found.values())


def rows(journal: Database, kind: Kind) -> Iterator[sqlite3.Row]:
    """All pictures of a kind in the order in which they were noticed, some at a time.

    Columns: id, name, stem, finished, latency_s, seconds, objects, failures, note.
    """
    last = -1
    query = (
        "SELECT id, name, stem, finished, latency_s, seconds, objects, failures, note FROM pictures "
        "WHERE +kind = ? AND id > ? ORDER BY id LIMIT 1000"
    )
    while rows := journal.all(query, kind, last):
        yield from rows
        last = rows[-1]["id"]
