"""`infer` on the workers of a dask scheduler: real processes, the bytes of a run without them, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

distributed = pytest.importorskip("distributed", reason="needs the extra dask")

from cellengine.engine.batch import Device, infer_files
from cellengine.engine.checkpoint import Slot, scratch_folder
from cellengine.engine.cluster import connect
from cellengine.engine.cluster.connect import open_cluster, parse_workers
from cellengine.engine.cluster.crew import Crew, _Memory
from cellengine.engine.job import Job
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import Plan
from cellengine.engine.run import Progress
from cellengine.engine.scores import check_slots, slot_bytes, write_tile
from cellengine.errors import DeviceError, Interrupted, PartialFailure, ResourceError, UsageError
from cellengine.io.slots import SlotFile
from tests.engine.blobs import blob_spec, write_blob_model
from tests.engine.classes import write_class_model
from tests.synthetic import draw_cells

HOW = Device("cpu", "onnxruntime", "fp32")
BLOCKS = InferOptions(max_ram=2_000_000, tile=(64,), batch=2)
ENDS = (".labels.tif", ".objects.csv", ".classes.csv", ".overlay.png")


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """A scheduler with two worker processes of one thread."""
    how: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
    with distributed.LocalCluster(**how, scheduler_kwargs={"dashboard_address": "127.0.0.1:0"}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and pictures: one that is labelled in blocks, a time series of such, several small ones."""
    path = tmp_path_factory.mktemp("inputs")
    write_blob_model(path / "blobs.onnx")
    write_class_model(path / "classes.onnx")
    planes = [draw_cells((230, 260), 45, seed, (4, 8))[0] for seed in range(2)]
    tifffile.imwrite(path / "cells.tif", planes[0])
    tifffile.imwrite(path / "series.tif", np.stack(planes), metadata={"axes": "TYX"}, ome=True)
    (path / "plate").mkdir()
    for number in range(3):
        tifffile.imwrite(path / "plate" / f"{number}.tif", draw_cells((70, 80 + 8 * number), 9, number)[0])
    return path


def run(folder: Path, name: str, output: Path, *, model: str = "blobs", **how: Any) -> dict[str, Any]:
    """Label an input of `folder`; what run.json says."""
    how = {"options": BLOCKS, **how}
    infer_files([str(folder / name)], str(folder / f"{model}.onnx"), output, device=HOW, **how)
    record: dict[str, Any] = json.loads((output / "run.json").read_text())
    return record


def outputs(output: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in output.iterdir() if p.name.endswith(ENDS)}


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, bytes]]:
    """What one process gives without workers, computed once."""
    known: dict[str, dict[str, bytes]] = {}

    def outputs_of(name: str, **how: Any) -> dict[str, bytes]:
        if name not in known:
            output = tmp_path_factory.mktemp("alone")
            run(folder, name, output, **how)
            known[name] = outputs(output)
        return known[name]

    return outputs_of


def test_blocks_on_workers_give_the_same_bytes(
    workers: Any, folder: Path, alone: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    record = run(folder, "series.tif", tmp_path / "out", dask=workers.scheduler_address)
    assert record["files"]["series.tif"]["blocks"] > 4
    assert record["session"]["workers"] == 2
    assert outputs(tmp_path / "out") == alone("series.tif")
    assert len(alone("series.tif")) == 3
    assert not list((tmp_path / "out").glob(".*.scratch"))


def test_a_killed_worker_costs_only_its_tasks(
    workers: Any, folder: Path, alone: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(tiles: int) -> None:
        if not killed:
            killed.append(next(iter(workers.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    record = run(
        folder, "series.tif", tmp_path / "out", dask=workers.scheduler_address, progress=Progress(advance=kill)
    )
    assert killed
    assert record["files"]["series.tif"]["tiles_from_earlier_runs"] == 0
    assert outputs(tmp_path / "out") == alone("series.tif")


def tiles_in(log: Path) -> int:
    """Tiles that a checkpoint says are finished."""
    return log.read_bytes().count(b'"tile"') if log.exists() else 0


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of POSIX")
def test_a_killed_run_goes_on_with_other_workers_or_none(
    workers: Any, folder: Path, alone: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    """The program that shares the work out is killed; the workers stay."""
    output = tmp_path / "out"
    log = scratch_folder(output / "series") / "log"
    names = [str(folder / "series.tif"), "-m", str(folder / "blobs.onnx"), "-o", str(output)]
    how = ["--device", "cpu", "--backend", "onnxruntime", "--precision", "fp32"]
    plan = ["--tile", "64", "--batch", "2", "--max-ram", "2MB"]
    program = "from cellengine.cli import main; main()"
    command = [sys.executable, "-c", program, "infer", *names, *how, *plan, "--dask", workers.scheduler_address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 300
        while tiles_in(log) < 6 and time.monotonic() < limit:
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
    assert outputs(output) == {}
    record = run(folder, "series.tif", output)
    assert record["files"]["series.tif"]["tiles_from_earlier_runs"] > 0
    assert outputs(output) == alone("series.tif")


def test_a_run_that_is_asked_to_stop_goes_on(
    workers: Any, folder: Path, alone: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    def stop(tiles: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(folder, "series.tif", tmp_path, dask=workers.scheduler_address, progress=Progress(advance=stop))
    assert outputs(tmp_path) == {}
    record = run(folder, "series.tif", tmp_path, dask=workers.scheduler_address)
    assert record["files"]["series.tif"]["tiles_from_earlier_runs"] > 0
    assert outputs(tmp_path) == alone("series.tif")


def test_small_inputs_are_one_task_each(
    workers: Any, folder: Path, alone: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    options = InferOptions(tile=(64,), max_ram=80_000_000)
    (folder / "plate" / "bad.tif").write_bytes(b"no picture")
    try:
        with pytest.raises(PartialFailure, match="1 of 4 inputs failed"):
            run(folder, "plate", tmp_path / "alone", options=options)
        with pytest.raises(PartialFailure, match="1 of 4 inputs failed"):
            run(folder, "plate", tmp_path / "out", options=options, dask=workers.scheduler_address)
    finally:
        (folder / "plate" / "bad.tif").unlink()
    assert outputs(tmp_path / "out") == outputs(tmp_path / "alone")
    assert len(outputs(tmp_path / "out")) == 9
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("alone", "out")]
    files = [{name: record["sha256"] for name, record in one["files"].items()} for one in records]
    assert files[0] == files[1]
    assert list(files[0]) == list(files[1]) == ["0.tif", "1.tif", "2.tif"]
    assert (tmp_path / "out" / "failures.csv").read_text() == (tmp_path / "alone" / "failures.csv").read_text()
    assert not list((tmp_path / "out").glob(".*.scratch"))


def test_the_network_of_other_models_runs_on_workers(
    workers: Any, folder: Path, alone: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    options = InferOptions(max_ram=200_000, tile=(64,), channel=("0",))
    how = {"model": "classes", "options": options}
    record = run(folder, "cells.tif", tmp_path / "out", **how, dask=workers.scheduler_address)
    assert "tiles_from_earlier_runs" in record["files"]["cells.tif"]
    assert outputs(tmp_path / "out") == alone("cells.tif", **how)


def test_workers_that_do_not_see_the_files_are_refused(workers: Any, folder: Path, tmp_path: Path) -> None:
    job = Job("a", folder / "cells.tif", {"bytes": 1, "changed_ns": 1}, Path("a"))
    with open_cluster(workers.scheduler_address) as cluster:
        with pytest.raises(DeviceError, match=r"worker tcp://.* does not see the input .*cells.tif as it is here"):
            Crew(cluster, "x").check_paths(tmp_path, [job], [])
        assert not list(tmp_path.iterdir())


def test_workers_with_other_versions_are_refused(workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "deciding_versions", lambda: {"cellengine": "9.9", "numpy": np.__version__})
    with (
        pytest.raises(DeviceError, match=r'other versions \(cellengine: "0.*" there, "9.9" now\): install'),
        open_cluster(workers.scheduler_address),
    ):
        pass


def test_an_address_where_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "CONNECT_S", 0.5)
    with pytest.raises(DeviceError, match=r"nothing answers there .*dask scheduler"), open_cluster("tcp://127.0.0.1:9"):
        pass


def test_a_scheduler_without_workers() -> None:
    with distributed.LocalCluster(n_workers=0, dashboard_address=None, processes=False, protocol="tcp") as cluster:
        address = cluster.scheduler_address
        with pytest.raises(DeviceError, match="has no workers: start some"), open_cluster(address, workers_s=0.2):
            pass


def test_what_ends_every_worker_is_an_error(workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.scheduler, "allowed_failures", 0)
    with open_cluster(workers.scheduler_address) as cluster, pytest.raises(ResourceError, match="--max-ram"):
        cluster.call(os._exit, 1)


def test_workers_and_schedulers_that_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(connect, "PATIENCE_S", 0.3)
    how: dict[str, Any] = {"processes": False, "protocol": "tcp", "dashboard_address": None}
    with distributed.LocalCluster(n_workers=1, **how) as some, open_cluster(some.scheduler_address) as cluster:
        assert cluster.call(max, 1, 2) == 2
        some.scale(0)
        with pytest.raises(ResourceError, match="all workers have gone"):
            cluster.call(max, 1, 2)
        some.close()
        with pytest.raises(ResourceError, match="the scheduler has gone"):
            cluster.call(max, 1, 2)


@pytest.mark.parametrize("text", ["local:", "local:0", "local:two", "local:-1"])
def test_a_number_of_processes(text: str) -> None:
    with pytest.raises(UsageError, match="local:2"):
        parse_workers(text)
    assert parse_workers("local:3") == 3
    assert parse_workers("tcp://host:8786") == "tcp://host:8786"


def test_scores_that_another_machine_does_not_see_are_refused(tmp_path: Path) -> None:
    spec, plan = blob_spec(), Plan((100, 100), (64, 64), (4, 4), (4, 4), 1)
    file = SlotFile(tmp_path / "scores", slot_bytes(spec, plan))
    shape = plan.grid.cell(1).shape
    checksum = write_tile(file, 1, spec, {o.name: np.full((1, *shape), 0.5, np.float32) for o in spec.outputs})
    check_slots(file, {1: Slot(1, checksum)}, spec, plan)
    for slot in (Slot(1, checksum ^ 1), Slot(2, checksum)):
        with pytest.raises(ResourceError, match="share"):
            check_slots(file, {1: slot}, spec, plan)


def test_memory_is_shared_out() -> None:
    """Never more than the limit at a time, unless one alone wants more."""
    memory, held, most = _Memory(), [0], [0]
    lock = threading.Lock()

    def work(wanted: int) -> None:
        with memory.hold(wanted, 10):
            with lock:
                held[0] += wanted
                most[0] = max(most[0], held[0])
            time.sleep(0.002)
            with lock:
                held[0] -= wanted

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [3, 4, 5, 1, 2, 9, 10, 3, 3, 3, 4] * 4))
    assert 0 < most[0] <= 10
    work(25)
    assert most[0] == 25
