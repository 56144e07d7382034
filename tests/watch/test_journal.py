"""The record of a watcher: what was said to be done stays done, and the first to come is the first to go."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cellengine.errors import UsageError
from cellengine.watch import overview
from cellengine.watch.database import FILE
from cellengine.watch.journal import MOST_DEATHS, MOST_FAILURES, Entry, Finished, Journal
from cellengine.watch.pictures import State


def found(objects: int = 3, **classes: int) -> Finished:
    return Finished(time.time(), 0.5, 0.1, objects, classes, {"outputs": []})


def take(journal: Journal) -> Entry:
    entry = journal.next()
    assert entry is not None
    return entry


def test_order_of_arrival_not_of_names_or_notice(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.see([("a", State(1, 1, 30)), ("b", State(1, 1, 10)), ("c", State(1, 1, 20))], settle_s=0)
        order = []
        while (entry := journal.next()) is not None:
            order.append(entry.name)
            journal.begin(entry, [entry.name])
            journal.finish(entry, State(1, 1, 0), [entry.name], found())
        assert order == ["b", "c", "a"]
        assert [row["name"] for row in overview.results(journal)] == order
        assert [row["name"] for row in overview.results(journal, after=1, limit=1)] == ["c"]


def test_a_picture_rests_before_it_is_taken(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.see([("a", State(1, 1, 0))], settle_s=60)
        assert journal.next() is None
        assert 50 < (journal.seconds_to_next() or 0) <= 60
        journal.see([("b", State(1, 1, 0))], settle_s=0)
        assert take(journal).name == "b"
        journal.see([("b", State(2, 2, 0))], settle_s=60)
        assert journal.next() is None, "it changed, so it rests anew"


def test_three_failures_and_mending(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.see([("a", State(1, 1, 0))], settle_s=0)
        finals = [journal.fail(take(journal), "no", retry_s=0) for _ in range(MOST_FAILURES)]
        assert finals == [False] * (MOST_FAILURES - 1) + [True]
        assert journal.next() is None
        assert list(journal.failed_names()) == ["a"]
        journal.see([("a", State(1, 1, 0))], settle_s=0)
        assert journal.next() is None, "it is as it was"
        journal.see([("a", State(2, 2, 0))], settle_s=0)
        assert take(journal).failures == 0


def test_what_kills_the_program_again_and_again_is_set_aside(tmp_path: Path) -> None:
    for _ in range(MOST_DEATHS):
        with Journal(tmp_path) as journal:
            journal.recover()
            journal.see([("a", State(1, 1, 0))], settle_s=0)
            journal.begin(take(journal), ["a"])
    with Journal(tmp_path) as journal:
        assert journal.recover() == ["a"]
        assert overview.counts(journal) == {"waiting": 0, "running": 0, "done": 0, "failed": 1}


def test_a_change_after_the_result_is_told_once(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.see([("a", State(1, 1, 0))], settle_s=0)
        entry = take(journal)
        journal.begin(entry, ["a"])
        journal.finish(entry, State(1, 1, 0), ["a"], found())
        assert journal.see([("a", State(1, 1, 0))], 0) == []
        assert journal.see([("a", State(2, 2, 0))], 0) == ["a"]
        assert journal.see([("a", State(2, 2, 0))], 0) == []
        assert journal.next() is None


def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from cellengine.watch.journal import Journal\n"
        "from cellengine.watch.pictures import State\n"
        "from tests.watch.test_journal import found, take\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.see([(str(i), State(1, 1, i)) for i in range(5)], 0)\n"
        "for _ in range(3):\n"
        "    entry = take(journal)\n"
        "    journal.begin(entry, [entry.name])\n"
        "    journal.finish(entry, State(1, 1, 0), [entry.name], found())\n"
        "journal.begin(take(journal), ['3'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)
    with Journal(tmp_path) as journal:
        assert journal.recover() == ["3"]
        assert overview.counts(journal) == {"waiting": 2, "running": 0, "done": 3, "failed": 0}
        entry = take(journal)
        assert (entry.name, entry.stem) == ("3", "3"), "the one that was in work is the next, under its own name"


def test_a_damaged_journal_is_said(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"these are no tables" * 100)
    with pytest.raises(UsageError, match=r"damaged.*move it away"):
        Journal(tmp_path)


def test_history_adds_up(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        assert overview.history(journal, 10) == []
        for i in range(20):
            journal.see([(str(i), State(1, 1, i))], 0)
            entry = take(journal)
            journal.begin(entry, [entry.name])
            what = Finished(1000.0 + 60 * i, 1, 1, 5, {"live": 3, "dead": 2}, {"outputs": []})
            journal.finish(entry, State(1, 1, 0), [entry.name], what)
        steps = overview.history(journal, 10)
        assert len(steps) <= 11
        assert sum(step["pictures"] for step in steps) == 20
        assert sum(step["objects"] for step in steps) == 100
        assert sum(step["classes"]["live"] for step in steps) == 60
        assert overview.objects(journal) == 100


def label_many(journal: Journal, count: int) -> None:
    for start in range(0, count, 500):
        journal.see([(str(i), State(1, 1, i)) for i in range(start, min(start + 500, count))], 0)
    with journal.changing() as db:
        db.execute("UPDATE pictures SET kind = 'done', finished = id, sequence = id, objects = 1, record = '{}'")


def steps(journal: Journal, ask: Callable[[], object]) -> int:
    """How many instructions SQLite takes for an answer."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    journal._db.set_progress_handler(count, 1)
    ask()
    journal._db.set_progress_handler(None, 1)
    return taken


def test_work_for_a_picture_does_not_grow_with_those_before(tmp_path: Path) -> None:
    taken: list[dict[str, int]] = []
    for count in (400, 4000):
        (tmp_path / str(count)).mkdir()
        with Journal(tmp_path / str(count)) as journal:
            label_many(journal, count)
            journal.see([(f"new {i}", State(1, 1, i)) for i in range(count)], 0)
            entry = take(journal)
            taken.append(
                {
                    "next": steps(journal, journal.next),
                    "wait": steps(journal, journal.seconds_to_next),
                    "finish": steps(journal, lambda: journal.finish(entry, State(1, 1, 0), [entry.name], found())),  # noqa: B023
                    "latest": steps(journal, lambda: overview.latest(journal, 30)),
                    "results": steps(journal, lambda: overview.results(journal, count // 2, 30)),  # noqa: B023
                    "troubles": steps(journal, lambda: overview.troubles(journal)),
                }
            )
    few, many = taken
    assert {name: many[name] < 1.5 * few[name] + 50 for name in few} == dict.fromkeys(few, True), taken


def test_clocks_that_are_set_do_not_hold_up_a_picture_nor_hurry_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_time = time.time
    with Journal(tmp_path) as journal:
        journal.see([("a", State(1, 1, 0))], settle_s=60)
        for jump in (-86400, 86400):
            monkeypatch.setattr(time, "time", lambda: true_time() + jump)  # noqa: B023
            assert journal.next() is None
            assert 0 < (journal.seconds_to_next() or 0) <= 60
    with Journal(tmp_path) as journal:
        journal.recover()
        assert take(journal).name == "a", "what waits is looked at by the clock of the new start"


def test_all_that_were_set_aside_are_listed(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.see([(str(i), State(1, 1, 0)) for i in range(1200)], settle_s=0)
        with journal.changing() as db:
            db.execute("UPDATE pictures SET kind = 'failed', note = 'no', finished = -id")
        assert sorted(journal.failed_names()) == sorted(str(i) for i in range(1200))
        assert len(list(overview.rows(journal, "failed"))) == 1200
