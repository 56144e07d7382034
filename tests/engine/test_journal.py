"""The record of a run: what is finished stays finished, another run is refused, a crash costs at most its last line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cellengine.engine.journal import JOURNAL, RUN, hold_output, open_journal
from cellengine.errors import LockedError, ResourceError, UsageError

IDENTITY = {"inputs": {"a.tif": {"bytes": 3}}, "model": "abc", "settings": {"tile": None}}


def test_finished_files_survive(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, IDENTITY, restart=False)
    journal.freeze({"backend": "openvino"})
    journal.add("a.tif", {"objects": 3})
    again = open_journal(tmp_path, IDENTITY, restart=False)
    assert again.finished == {"a.tif": {"objects": 3}}
    assert again.frozen == {"backend": "openvino"}
    assert not again.complete


@pytest.mark.parametrize("torn", ['{"finished": "b.tif", "rec', "{", "\x00\x00\x00"])
def test_a_torn_last_line_is_ignored_and_written_over(tmp_path: Path, torn: str) -> None:
    journal = open_journal(tmp_path, IDENTITY, restart=False)
    journal.freeze({})
    journal.add("a.tif", {"objects": 3})
    with (tmp_path / JOURNAL).open("a") as file:
        file.write(torn)
    again = open_journal(tmp_path, IDENTITY, restart=False)
    assert list(again.finished) == ["a.tif"]
    again.add("b.tif", {"objects": 4})
    assert list(open_journal(tmp_path, IDENTITY, restart=False).finished) == ["a.tif", "b.tif"]


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    open_journal(tmp_path, IDENTITY, restart=False).freeze({})
    with pytest.raises(UsageError, match=r'model: "abc" then, "xyz" now.*--restart'):
        open_journal(tmp_path, {**IDENTITY, "model": "xyz"}, restart=False)
    assert open_journal(tmp_path, {**IDENTITY, "model": "xyz"}, restart=True).finished == {}


def test_a_complete_run_is_recognised(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, IDENTITY, restart=False)
    journal.freeze({})
    journal.add("a.tif", {"objects": 3})
    journal.close({"files": journal.finished}, complete=True)
    assert not (tmp_path / JOURNAL).exists()
    again = open_journal(tmp_path, IDENTITY, restart=False)
    assert again.complete
    assert again.finished == {"a.tif": {"objects": 3}}


def test_failures_leave_the_run_open_to_be_retried(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, IDENTITY, restart=False)
    journal.freeze({})
    journal.close({"files": {}}, complete=False)
    assert (tmp_path / RUN).exists()
    assert not open_journal(tmp_path, IDENTITY, restart=False).complete


def test_two_runs_exclude_each_other_and_a_dead_ones_lock_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from cellengine.engine.journal import hold_output\n"
        f"with hold_output(Path({str(tmp_path)!r})):\n    print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        assert other.stdout.readline().strip() == "held"
        with pytest.raises(LockedError, match="Another run"), hold_output(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    with hold_output(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_an_output_that_cannot_be_made_is_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ResourceError, match="cannot be written"), hold_output(tmp_path / "file" / "out"):
        pass
