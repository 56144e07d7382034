"""The live page in a real browser, where one is installed: what it shows, and that nothing goes wrong in it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cellengine.io import write_png
from cellengine.watch.journal import Finished, Journal
from cellengine.watch.pictures import State
from cellengine.watch.server import Address, Server
from cellengine.watch.status import Status

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
SESSION = {"backend": "onnxruntime", "precision": "fp32", "device": "cpu"}
STRANGE = "<img src=x onerror=alert(1)>.tif"


def label(journal: Journal, output: Path, name: str, objects: int, **classes: int) -> None:
    journal.see([(name, State(1, 1, 0))], settle_s=0)
    entry = journal.next()
    assert entry is not None
    stem = f"picture{entry.id}"
    journal.begin(entry, [stem])
    write_png(output / f"{stem}.overlay.png", np.full((30, 40, 3), 90, np.uint8))
    record = {"outputs": [f"{stem}.overlay.png"]}
    what = Finished(1_700_000_000.0 + 60 * entry.id, 2.5, 0.4, objects, classes, record)
    journal.finish(entry, State(1, 1, 0), [name], what)


def look(journal: Journal, status: Status, output: Path, profile: Path) -> str:
    """The page as it stands after some seconds; no error may have been logged in it."""
    with Server(Address("127.0.0.1", 0), journal, status, output) as server:
        how = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
        budget = ["--virtual-time-budget=8000", "--enable-logging=stderr", "--dump-dom"]
        done = subprocess.run(
            [str(CHROMIUM), *how, *budget, server.url], capture_output=True, text=True, timeout=180, check=False
        )
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout


def test_the_states_of_the_page(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    status = Status(SESSION, "nuclei", "incoming", ("live", "dead"))
    shown: Callable[[], str] = lambda: look(journal, status, output, tmp_path / "profile")  # noqa: E731
    with Journal(output) as journal:
        empty = shown()
        assert "No picture has been labelled yet" in empty
        assert '<dd id="done">0</dd>' in empty
        assert '<figure id="viewer" hidden="">' in empty
        label(journal, output, "a.tif", 12, live=9, dead=3)
        label(journal, output, STRANGE, 5, live=5)
        journal.see([("bad.tif", State(1, 1, 0))], settle_s=0)
        for _ in range(3):
            entry = journal.next()
            assert entry is not None
            journal.fail(entry, "the file ends too early", retry_s=0)
        status.pause("the disk is full")
        running = shown()
    assert '<dd id="done">2</dd>' in running
    assert '<dd id="failed">1</dd>' in running
    assert '<dd id="objects">17</dd>' in running
    assert "the file ends too early" in running
    assert "the disk is full" in running
    assert "an outline around each of 5 objects" in running
    assert "Shares of the classes over time: live, dead" in running
    assert '<img src="x"' not in running, "a name is text, not markup"
