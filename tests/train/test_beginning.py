"""What a run starts from is known until its first checkpoint holds it, whatever happens in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cellengine.errors import InputError, ResourceError, UsageError
from cellengine.train.beginning import BEGINNING, recall_start, remember_start, settle_start


@pytest.fixture
def init(tmp_path: Path) -> Path:
    path = tmp_path / "init.pt"
    path.write_bytes(b"weights")
    return path


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_same(
    tmp_path: Path, init: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    assert settle_start(folder, Path("init.pt"), resume=False) == Path("init.pt")
    monkeypatch.chdir("/")
    assert settle_start(folder, None, resume=True) == init
    assert [path.name for path in folder.iterdir()] == [BEGINNING]
    (folder / "last.pt").touch()
    init.unlink()
    assert settle_start(folder, None, resume=True) is None, "the checkpoint holds its own weights"


def test_a_run_that_begins_anew_forgets_the_start_before(tmp_path: Path, init: Path) -> None:
    folder = tmp_path / "run"
    settle_start(folder, init, resume=False)
    assert settle_start(folder, None, resume=False) is None
    assert settle_start(folder, None, resume=True) is None
    assert settle_start(tmp_path / "none", None, resume=False) is None
    assert not (tmp_path / "none").exists()


def test_a_start_that_is_not_what_it_was_is_refused(tmp_path: Path, init: Path) -> None:
    remember_start(tmp_path / "run", init)
    init.write_bytes(b"Weights")
    with pytest.raises(UsageError, match=r"begun with --init .*init\.pt, which has changed since: bring it back"):
        recall_start(tmp_path / "run")
    init.unlink()
    with pytest.raises(UsageError, match=r"init\.pt, which is gone"):
        recall_start(tmp_path / "run")


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"init": 3}), "\x00"])
def test_a_damaged_note_is_no_start_from_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / BEGINNING).write_text(text)
    with pytest.raises(InputError, match=r"beginning\.json: cannot be read"):
        recall_start(tmp_path)


def test_what_cannot_be_remembered_is_said_before_anything_is_written(tmp_path: Path, init: Path) -> None:
    with pytest.raises(UsageError, match="--init nuclie: there is no such file, and no bundled model"):
        remember_start(tmp_path / "run", Path("nuclie"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ResourceError, match="cannot be written"):
        remember_start(init, init)


def test_of_several_processes_the_first_one_writes(tmp_path: Path, init: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    remember_start(tmp_path, init)
    assert recall_start(tmp_path) is None
    monkeypatch.setenv("RANK", "0")
    remember_start(tmp_path, init)
    assert recall_start(tmp_path) == init
