"""What the benchmarks of `cellengine watch` share: a watcher as a process of its own, and its journal."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile


def start(folder: Path, output: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Watch `folder`; what is said goes to a file beside the output."""
    program = "from cellengine.cli import main; main()"
    command = [sys.executable, "-c", program, "watch", str(folder), "-o", str(output), "--no-page", *arguments]
    with output.with_name("said.txt").open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said)


def ask(output: Path, query: str) -> list[tuple[float, ...]]:
    """Rows of the journal, read beside the watcher; none as long as there is no journal."""
    journal = output / ".watch.sqlite"
    if not journal.exists():
        return []
    try:
        with sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=30) as db:
            return list(db.execute(query))
    except sqlite3.OperationalError:  # its tables are being made
        return []


def done(output: Path) -> int:
    """Pictures that are labelled."""
    rows = ask(output, "SELECT COUNT(*) FROM pictures WHERE kind = 'done'")
    return int(rows[0][0]) if rows else 0


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            raise SystemExit("it did not come in time: see said.txt")
        time.sleep(0.2)


def write_cells(path: Path, side: int, seed: int) -> None:
    """A grey picture of bright round cells, written as a microscope would: in place."""
    random = np.random.default_rng(seed)
    picture = random.normal(20, 4, (side, side)).astype(np.float32)
    y, x = np.mgrid[-9:10, -9:10]
    for _ in range(side * side // 1500):
        cy, cx = random.integers(9, max(10, side - 9), 2)
        box = picture[cy - 9 : cy + 10, cx - 9 : cx + 10]
        if box.shape == y.shape:
            box[np.hypot(y, x) <= random.uniform(4, 8)] += random.uniform(80, 160)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, picture.clip(0, 255).astype(np.uint8))
