"""`cellengine infer --dask` as its users meet it: processes of this machine, and what may be missing."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
import tifffile

from cellengine.cli import main
from cellengine.cli.infer import infer_files
from cellengine.engine.run import Progress
from tests.engine.blobs import write_blob_model
from tests.synthetic import draw_cells

HOW = ("--device", "cpu", "--backend", "onnxruntime", "--precision", "fp32", "--tile", "64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs")
    write_blob_model(path / "blobs.onnx")
    (path / "plate").mkdir()
    for number in range(2):
        tifffile.imwrite(path / "plate" / f"{number}.tif", draw_cells((90, 100), 12, number)[0])
    return path


def infer(folder: Path, output: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(("infer", str(folder / "plate"), "-m", str(folder / "blobs.onnx"), "-o", str(output), *HOW, *arguments))
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_processes_of_this_machine_write_the_same_and_listen_to_it_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="needs the extra dask")
    listening: set[str] = set()

    def look(name: str, tiles: int) -> None:
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        found = (c for one in family for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN)
        listening.update(c.laddr.ip for c in found)

    monkeypatch.setattr(
        "cellengine.cli.infer.infer_files", lambda *a, **k: infer_files(*a, **{**k, "progress": Progress(begin=look)})
    )
    assert infer(folder, tmp_path / "workers", "--dask", "local:2") == 0
    assert listening == {"127.0.0.1"}
    assert infer(folder, tmp_path / "alone") == 0
    names = sorted(p.name for p in (tmp_path / "alone").glob("[01].*"))
    assert len(names) == 6
    for name in names:
        assert (tmp_path / "workers" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_a_missing_package_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in sys.modules if n.startswith("cellengine.engine.cluster")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert infer(folder, tmp_path / "out", "--dask", "local:2") == 5
    assert "pip install 'cellengine[dask]'" in capsys.readouterr().err


def test_a_number_of_processes_that_is_none(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("distributed", reason="needs the extra dask")
    assert infer(folder, tmp_path / "out", "--dask", "local:many") == 2
    assert "local:2" in capsys.readouterr().err
