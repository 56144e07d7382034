"""Class maps and detections of large pictures, cut short: what is whole is not computed again, the rest not trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellengine.engine.backends import open_session
from cellengine.engine.checkpoint import scratch_folder
from cellengine.engine.flow import Stop
from cellengine.engine.job import Job, label_file
from cellengine.engine.options import InferOptions
from cellengine.engine.run import Progress
from cellengine.engine.session import Session
from cellengine.errors import InputError, Interrupted, UsageError
from tests.engine.classes import write_class_model
from tests.engine.damage import cut, flip
from tests.engine.detector import write_peak_model
from tests.synthetic import draw_cells

OPTIONS = InferOptions(max_ram=1_000_000, tile=(96,), batch=2)


@dataclass(frozen=True)
class Case:
    """A session and a picture that it needs several tiles for."""

    session: Session
    picture: Path

    def run(self, folder: Path, stop_after: int | None = None, **changes: Any) -> dict[str, Any]:
        """Label into `folder`; after so many tiles a signal comes."""
        stop, done = Stop(), [0]

        def advance(more: int) -> None:
            done[0] += more
            if stop_after is not None and done[0] >= stop_after:
                stop.signal_number = 15

        job = Job("a.tif", self.picture, changes.pop("fingerprint", {"bytes": 3}), Path("a"))
        how = {"options": OPTIONS, "stop": stop, "progress": Progress(advance=advance), "run": "one", **changes}
        return label_file(job, folder, self.session, **how)


@pytest.fixture(scope="module", params=[write_class_model, write_peak_model])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("case")
    planes = [draw_cells((270, 330), 60, seed, (7, 9))[0] for seed in range(2)]
    tifffile.imwrite(folder / "a.tif", np.stack(planes), metadata={"axes": "ZYX"}, ome=True)
    model = request.param(folder / "model.onnx")
    with ExitStack() as held:
        how = {"device": "cpu", "backend": "onnxruntime", "precision": "fp32"}
        yield Case(held.enter_context(open_session(model, **how)), folder / "a.tif")


@pytest.fixture(scope="module")
def whole(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    assert case.run(folder)["tiles_from_earlier_runs"] == 0
    return outputs(folder)


def outputs(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def begun(case: Case, folder: Path, tiles: int) -> Path:
    with pytest.raises(Interrupted):
        case.run(folder, tiles)
    assert outputs(folder) == {}, "nothing has its final name"
    return scratch_folder(folder / "a")


@pytest.mark.parametrize("tiles", [1, 12, 25])
def test_a_stopped_run_goes_on(case: Case, whole: dict[str, bytes], tmp_path: Path, tiles: int) -> None:
    begun(case, tmp_path, tiles)
    again = case.run(tmp_path)
    assert outputs(tmp_path) == whole
    assert again["tiles_from_earlier_runs"] >= tiles


def test_a_run_in_memory_finds_the_same(case: Case, whole: dict[str, bytes], tmp_path: Path) -> None:
    found = case.run(tmp_path, options=InferOptions(tile=(96,), batch=2))
    assert "tiles_from_earlier_runs" not in found
    assert outputs(tmp_path) == whole


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("share", [0.1, 0.6])
@pytest.mark.parametrize("name", ["labels", "log"])
def test_what_was_damaged_is_computed_again(
    case: Case, whole: dict[str, bytes], tmp_path: Path, name: str, share: float, damage: Callable[[Path, float], None]
) -> None:
    damage(begun(case, tmp_path, 20) / name, share)
    case.run(tmp_path)
    assert outputs(tmp_path) == whole


def test_an_input_that_changed_meanwhile_is_refused(case: Case, tmp_path: Path) -> None:
    scratch = begun(case, tmp_path, 5)
    with pytest.raises(UsageError, match=r"another a\.tif \(bytes: 3 then, 4 now\).*--restart"):
        case.run(tmp_path, fingerprint={"bytes": 4})
    assert (scratch / "log").exists()


def test_an_input_that_cannot_be_read_any_more_leaves_nothing(case: Case, tmp_path: Path) -> None:
    begun(case, tmp_path / "out", 5)
    broken = tmp_path / "a.tif"
    broken.write_bytes(case.picture.read_bytes()[:-20_000])
    with pytest.raises(InputError):
        Case(case.session, broken).run(tmp_path / "out")
    assert outputs(tmp_path / "out") == {}
