"""A model that answers at once, a folder to watch, and the program that watches it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellengine.engine.batch import Device
from cellengine.engine.options import InferOptions
from cellengine.errors import PartialFailure
from cellengine.watch.database import FILE
from cellengine.watch.journal import Journal
from cellengine.watch.service import watch_folder
from cellengine.watch.worker import WatchOptions
from tests.engine.conftest import small_spec, write_tiny_model
from tests.synthetic import draw_cells


@dataclass
class Bench:
    """One folder beside one microscope."""

    folder: Path
    output: Path
    model: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def drop(self, name: str, seed: int = 0) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, draw_cells((48, 40), 8, seed)[0])
        return path

    def once(self, settle_s: float = 0.2, **options: Any) -> str:
        """Label what is there, in this process; what was said. Raises what the program ends with."""
        said: list[str] = []
        how = WatchOptions(settle_s, once=True)
        device = Device("auto", "onnxruntime", "fp32")
        try:
            watch_folder(self.folder, str(self.model), self.output, InferOptions(**options), device, how, said.append)
        except PartialFailure as failure:
            said.append(f"exit 6: {failure}")
        return "\n".join(said)

    def start(self) -> subprocess.Popen[bytes]:
        """`cellengine watch` as a process of its own, without a page; what it says goes to a file."""
        where = ["watch", str(self.folder), "-m", str(self.model), "-o", str(self.output)]
        how = ["--backend", "onnxruntime", "--precision", "fp32", "--no-page", "--settle", "200ms"]
        program = f"from cellengine.cli import main; main({[*where, *how]!r})"
        with (self.folder.parent / "said.txt").open("ab") as said:
            process = subprocess.Popen([sys.executable, "-c", program], stdout=said, stderr=said)
        self.running.append(process)
        return process

    def journal(self) -> Journal:
        return Journal(self.output)

    def done(self) -> int:
        if not (self.output / FILE).exists():
            return 0
        with self.journal() as journal:
            row = journal.one("SELECT COUNT(*) AS n FROM pictures WHERE kind = 'done'")
        return int(row["n"]) if row else 0


@pytest.fixture(scope="session")
def grey_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "grey.onnx", small_spec(channels=("gray",)))


@pytest.fixture
def bench(tmp_path: Path, grey_model: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "in", tmp_path / "out", grey_model)
    made.folder.mkdir()
    yield made
    for process in made.running:
        process.kill()
        process.wait()


def cut(path: Path, to: Path) -> None:
    to.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def objects_in(labels: Path) -> int:
    return int(np.max(tifffile.imread(labels)))
