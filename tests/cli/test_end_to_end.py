"""The installed command, from picture to files: the demo checked by other libraries, and runs that are cut short."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.measure import regionprops_table

from cellengine.engine.journal import hold_output
from tests.engine.conftest import small_spec, write_tiny_model
from tests.synthetic import draw_cells

TISSUE, STACK = "tissue", "stack"


def cellengine() -> str:
    """The program as pip installed it, beside the Python that runs the tests."""
    found = shutil.which("cellengine", path=str(Path(sys.executable).parent))
    assert found, "pip install -e . puts the command `cellengine` beside python"
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {**os.environ, "CELLENGINE_CACHE": str(tmp_path_factory.mktemp("cache"))}


def run(arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [cellengine(), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> tuple[Path, str]:
    """The folder in which `cellengine demo` ran with the bundled model, and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    done = run(["demo"], folder, environment)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def results(demo: tuple[Path, str]) -> Path:
    return demo[0] / "demo" / "results"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def column(table: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in table])


def test_demo_says_what_it_found_and_where_to_look(demo: tuple[Path, str]) -> None:
    folder, text = demo
    assert "file 1/2 tissue.png: " in text
    assert "file 2/2 stack.ome.tif: " in text
    assert "2 files with " in text
    for name in ("tissue.overlay.png", "stack.labels.tif", "stack.objects.csv"):
        assert str(Path("demo/results") / name) in text
        assert (folder / "demo" / "results" / name).is_file()


def test_the_number_of_nuclei_is_sane(demo: tuple[Path, str]) -> None:
    """Some 250 nuclei can be counted in ihc.png, half of them faint; the planes hold up to 120 each, some touching."""
    assert 100 <= len(rows(results(demo) / f"{TISSUE}.objects.csv")) <= 350
    assert 240 <= len(rows(results(demo) / f"{STACK}.objects.csv")) <= 360


@pytest.mark.parametrize("plane", [None, 0, 1, 2])
def test_the_table_is_what_scikit_image_measures_on_the_labels(demo: tuple[Path, str], plane: int | None) -> None:
    stem = TISSUE if plane is None else STACK
    labels = tifffile.imread(results(demo) / f"{stem}.labels.tif")
    inputs = demo[0] / "demo/inputs"
    image = (
        np.asarray(Image.open(inputs / "tissue.png")) if plane is None else tifffile.imread(inputs / "stack.ome.tif")
    )
    table = rows(results(demo) / f"{stem}.objects.csv")
    assert [int(row["label"]) for row in table] == list(range(1, labels.max() + 1))
    if plane is not None:
        table = [row for row in table if int(row["z"]) == plane]
        labels, image = labels[plane], image[plane]
    truth = regionprops_table(labels, image, properties=("label", "area", "centroid", "bbox", "intensity_mean"))
    names = {
        "label": "label",
        "area": "area_px",
        "centroid-0": "centroid_y_px",
        "centroid-1": "centroid_x_px",
        "bbox-0": "bbox_y0",
        "bbox-1": "bbox_x0",
        "bbox-2": "bbox_y1",
        "bbox-3": "bbox_x1",
        "intensity_mean": "intensity_mean_c0",
    } | {f"intensity_mean-{c}": f"intensity_mean_c{c}" for c in range(3)}
    compared = [name for name in names if name in truth]
    assert len(compared) == (11 if plane is None else 9)
    for name in compared:
        np.testing.assert_allclose(column(table, names[name]), truth[name], rtol=1e-6, err_msg=name)
    for row in table:
        y0, x0, y1, x1 = (int(row[f"bbox_{n}"]) for n in ("y0", "x0", "y1", "x1"))
        at_border = y0 == 0 or x0 == 0 or y1 == labels.shape[0] or x1 == labels.shape[1]
        assert (row["touches_border"] == "1") == at_border
        assert 0.4 < float(row["score"]) <= 1


def test_a_stack_keeps_its_voxel_size_and_names_its_planes(demo: tuple[Path, str]) -> None:
    with tifffile.TiffFile(results(demo) / f"{STACK}.labels.tif") as file:
        assert file.ome_metadata is not None
        pixels = next(e for e in ElementTree.fromstring(file.ome_metadata).iter() if e.tag.endswith("}Pixels"))
        assert file.series[0].axes == "ZYX"
        assert file.series[0].dtype == np.uint32
    assert [float(pixels.attrib[f"PhysicalSize{axis}"]) for axis in "ZYX"] == [2.0, 0.5, 0.5]
    assert {pixels.attrib.get(f"PhysicalSize{axis}Unit", "µm") for axis in "ZYX"} == {"µm"}
    table = rows(results(demo) / f"{STACK}.objects.csv")
    assert "t" not in table[0]
    np.testing.assert_allclose(column(table, "centroid_y_um"), column(table, "centroid_y_px") * 0.5, rtol=1e-6)
    np.testing.assert_allclose(column(table, "area_um2"), column(table, "area_px") * 0.25, rtol=1e-6)
    flat = rows(results(demo) / f"{TISSUE}.objects.csv")[0]
    assert not [name for name in flat if name.endswith(("_um", "_um2")) or name in ("t", "z")]


def test_overlays_show_the_picture_with_outlines(demo: tuple[Path, str]) -> None:
    source = np.asarray(Image.open(demo[0] / "demo/inputs/tissue.png"))
    shown = np.asarray(Image.open(results(demo) / f"{TISSUE}.overlay.png"))
    factor = shown.shape[0] // source.shape[0]
    assert shown.shape == (source.shape[0] * factor, source.shape[1] * factor, 3)
    assert 512 <= max(shown.shape) <= 2048
    labels = tifffile.imread(results(demo) / f"{TISSUE}.labels.tif").repeat(factor, 0).repeat(factor, 1)
    drawn = (shown != source.repeat(factor, 0).repeat(factor, 1)).any(axis=2)
    assert not drawn[labels == 0].any(), "outlines lie on the objects' own pixels"
    touched = np.unique(labels[drawn])
    assert len(touched) == labels.max(), "every object has one"


def test_run_json_says_how_it_was_made(demo: tuple[Path, str]) -> None:
    run_record = json.loads((results(demo) / "run.json").read_text())
    assert run_record["complete"] is True
    assert run_record["failures"] == []
    assert run_record["model"]["name"] == "nuclei"
    assert len(run_record["model"]["sha256"]) == 64
    assert {"backend", "precision", "device", "provider"} <= set(run_record["session"])
    assert {"cellengine", "python", "numpy", "tifffile"} <= set(run_record["versions"])
    assert run_record["peak_memory_bytes"] > 50e6
    tissue, stack = (run_record["files"][n] for n in ("tissue.png", "stack.ome.tif"))
    assert tissue["objects"] == len(rows(results(demo) / f"{TISSUE}.objects.csv"))
    assert (stack["axes"], stack["shape"], stack["pictures"]) == ("ZYX", [3, 512, 512], 3)
    assert stack["voxel_size_um"] == [2.0, 0.5, 0.5]
    for record in (tissue, stack):
        assert {"scale", "network", "label", "measure", "write", "total"} <= set(record["seconds"])
        assert record["voxels_per_s"] > 0
        assert all((results(demo) / name).is_file() for name in record["outputs"])


def test_the_command_that_the_demo_shows_is_the_run_that_it_made(
    demo: tuple[Path, str], environment: dict[str, str]
) -> None:
    folder, text = demo
    shown = shlex.split(text.splitlines()[0])
    assert shown[:3] == ["$", "cellengine", "infer"]
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in results(demo).iterdir()}
    done = run(shown[2:], folder, environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "already holds this run" in done.stdout
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in results(demo).iterdir()} == before


def test_a_run_in_an_output_that_is_at_work_is_refused(
    demo: tuple[Path, str], environment: dict[str, str], tmp_path: Path
) -> None:
    picture = str(demo[0] / "demo" / "inputs" / "tissue.png")
    with hold_output(tmp_path / "out"):
        done = run(["infer", picture, "-o", "out"], tmp_path, environment)
    assert done.returncode == 75
    assert done.stderr.startswith("error: Another run is writing to out")
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "out").glob("*.tif"))


FILES = 16


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> tuple[Path, list[str]]:
    """A folder of pictures and a command that labels them; `whole` holds what it gives when nobody stops it."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "in").mkdir()
    for i in range(FILES):
        tifffile.imwrite(folder / "in" / f"{i:02}.tif", draw_cells((96, 96), 30, i)[0])
    write_tiny_model(folder / "grey.onnx", small_spec(channels=("gray",)))
    command = ["infer", "in", "-m", "grey.onnx", "--backend", "onnxruntime", "--precision", "fp32", "-o"]
    assert run([*command, "whole"], folder, environment).returncode == 0
    return folder, command


def results_in(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("[!.]*") if p.suffix in (".tif", ".csv", ".png")}


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "code", "after"),
    [(signal.SIGINT, 130, 1), (signal.SIGTERM, 143, FILES // 2), (signal.SIGKILL, -signal.SIGKILL, FILES // 4)],
)
def test_a_run_that_is_stopped_ends_as_if_it_had_not_been(
    many: tuple[Path, list[str]], environment: dict[str, str], number: signal.Signals, code: int, after: int
) -> None:
    folder, command = many
    name = number.name
    out = folder / name
    with subprocess.Popen(
        [cellengine(), *command, name],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        limit = time.monotonic() + 120
        while len(list(out.glob("*.overlay.png"))) < after and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.002)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code, "it was stopped while it was at work"
    assert code < 0 or err.endswith("error: Stopped; the same command goes on from here.\n")
    finished = {n for n, data in results_in(out).items() if n.endswith(".tif")}
    assert 0 < len(finished) < FILES
    whole = results_in(folder / "whole")
    assert all(whole[n] == data for n, data in results_in(out).items()), "what has its final name is final"
    assert not (out / "run.json").exists()
    times = {n: (out / n).stat().st_mtime_ns for n in finished}

    done = run([*command, name], folder, environment)
    assert done.returncode == 0, done.stderr
    assert results_in(out) == whole
    again = {n for n, t in times.items() if (out / n).stat().st_mtime_ns != t}
    assert len(again) <= (1 if code < 0 else 0), "at most the picture in hand is done again"
    assert sorted(p.name for p in out.glob(".*")) == [".lock"], "no scratch and no journal is left"
    assert json.loads((out / "run.json").read_text())["complete"]
