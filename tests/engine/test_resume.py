"""Runs in blocks that are cut short: they go on, end with the same bytes, and trust nothing that does not check."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellengine.engine.backends import open_session
from cellengine.engine.checkpoint import scratch_folder
from cellengine.engine.flow import Stop
from cellengine.engine.infer import Progress
from cellengine.engine.options import InferOptions
from cellengine.engine.session import Session
from cellengine.engine.stream import stream_source
from cellengine.errors import InputError, Interrupted, ResourceError, UsageError
from cellengine.geometry import Region
from cellengine.io import MemorySource
from tests.engine.blobs import write_blob_model
from tests.engine.damage import cut, flip
from tests.synthetic import draw_cells

OPTIONS = InferOptions(max_ram=2_500_000, tile=(32,), batch=3)
ME = {"run": "one", "fingerprint": {"bytes": 3}}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    path = write_blob_model(tmp_path_factory.mktemp("blobs") / "blobs.onnx")
    with open_session(path, device="cpu", backend="onnxruntime", precision="fp32") as opened:
        yield opened


@pytest.fixture(scope="module")
def source() -> MemorySource:
    planes = [draw_cells((200, 260), 50, seed, (4, 8))[0] for seed in range(2)]
    return MemorySource(np.stack(planes), "TYX")


@pytest.fixture(scope="module")
def whole(session: Session, source: MemorySource, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run gives that nobody stops."""
    folder = tmp_path_factory.mktemp("whole")
    run(session, source, folder)
    return outputs(folder)


def run(session: Session, source: MemorySource, folder: Path, **changes: Any) -> dict[str, Any]:
    how: dict[str, Any] = {"options": OPTIONS, "stop": Stop(), "progress": Progress(), **ME, **changes}
    return stream_source(source, session, stem=folder / "a", is_zarr=False, **how)[0]


def outputs(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def stop_after(tiles: int) -> dict[str, Any]:
    """A run that gets a signal after so many tiles."""
    stop, done = Stop(), []

    def advance(more: int) -> None:
        done.append(more)
        if sum(done) >= tiles:
            stop.signal_number = 15

    return {"stop": stop, "progress": Progress(advance=advance)}


def begun(session: Session, source: MemorySource, folder: Path, tiles: int = 60) -> Path:
    with pytest.raises(Interrupted):
        run(session, source, folder, **stop_after(tiles))
    assert outputs(folder) == {}, "nothing has its final name"
    return scratch_folder(folder / "a")


@pytest.mark.parametrize("tiles", [1, 30, 90, 130])
def test_a_stopped_run_goes_on(
    session: Session, source: MemorySource, whole: dict[str, bytes], tmp_path: Path, tiles: int
) -> None:
    begun(session, source, tmp_path, tiles)
    done = run(session, source, tmp_path)
    assert outputs(tmp_path) == whole
    assert done["tiles_from_earlier_runs"] >= tiles, "the tiles that were finished are not computed again"
    again = run(session, source, tmp_path)
    assert again["tiles_from_earlier_runs"] == again["tiles"], "nothing at all is"
    assert outputs(tmp_path) == whole


def test_a_run_that_is_stopped_all_the_time_ends_all_the_same(
    session: Session, source: MemorySource, whole: dict[str, bytes], tmp_path: Path
) -> None:
    for tiles in range(1, 400, 11):
        try:
            run(session, source, tmp_path, **stop_after(tiles))
        except Interrupted:
            continue
        break
    assert outputs(tmp_path) == whole


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["scores", "labels", "log"])
def test_what_was_damaged_is_computed_again(
    session: Session,
    source: MemorySource,
    whole: dict[str, bytes],
    tmp_path: Path,
    name: str,
    share: float,
    damage: Callable[[Path, float], None],
) -> None:
    damage(begun(session, source, tmp_path) / name, share)
    run(session, source, tmp_path)
    assert outputs(tmp_path) == whole


@pytest.mark.parametrize("name", ["scores", "labels", "log"])
def test_what_was_deleted_is_computed_again(
    session: Session, source: MemorySource, whole: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    (begun(session, source, tmp_path) / name).unlink()
    run(session, source, tmp_path)
    assert outputs(tmp_path) == whole


def test_the_plan_is_frozen(session: Session, source: MemorySource, whole: dict[str, bytes], tmp_path: Path) -> None:
    begun(session, source, tmp_path)
    plenty = InferOptions(max_ram=50_000_000, tile=(64,))
    done = run(session, source, tmp_path, options=plenty)
    assert (done["tile"], done["tiles_from_earlier_runs"] > 0) == ([32, 32], True)
    assert outputs(tmp_path) == whole


def test_an_input_that_changed_meanwhile_is_refused(session: Session, source: MemorySource, tmp_path: Path) -> None:
    scratch = begun(session, source, tmp_path)
    with pytest.raises(UsageError, match=r"another array \(bytes: 3 then, 4 now\).*--restart"):
        run(session, source, tmp_path, fingerprint={"bytes": 4})
    assert (scratch / "log").exists()


def test_what_another_run_left_is_worth_nothing(
    session: Session, source: MemorySource, whole: dict[str, bytes], tmp_path: Path
) -> None:
    begun(session, source, tmp_path)
    assert run(session, source, tmp_path, run="another")["tiles_from_earlier_runs"] == 0
    assert outputs(tmp_path) == whole


@pytest.mark.parametrize("writes", [3, 40, 90])
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(
    session: Session,
    source: MemorySource,
    whole: dict[str, bytes],
    tmp_path: Path,
    writes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = [writes]

    def pwrite(file: int, data: Any, offset: int, write: Callable[..., int] = os.pwrite) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(ResourceError, match="the disk is full"):
            run(session, source, tmp_path)
    assert outputs(tmp_path) == {}
    run(session, source, tmp_path)
    assert outputs(tmp_path) == whole


def test_an_input_that_cannot_be_read_leaves_nothing(
    session: Session, source: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(region: Region, load: Callable[[Region], Any] = source.read) -> Any:
        if region.start[0] == 1:
            raise InputError("a.tif: cannot be read")
        return load(region)

    monkeypatch.setattr(source, "read", read)
    with pytest.raises(InputError):
        run(session, source, tmp_path)
    assert not list(tmp_path.iterdir())


def test_scores_do_not_pile_up(session: Session, tmp_path: Path) -> None:
    """The file of scores grows with a row of blocks, not with the picture."""
    tall = MemorySource(draw_cells((1500, 100), 100, 1, (4, 8))[0])
    run(session, tall, tmp_path, options=InferOptions(max_ram=2_500_000, tile=(32,)))
    assert (scratch_folder(tmp_path / "a") / "scores").stat().st_size < 0.5 * 1500 * 100 * 4
