"""The report of a run, beside what one would reckon from the tables by hand."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from cellengine.engine.batch import Device, infer_files
from cellengine.engine.options import InferOptions
from cellengine.engine.report import statistics as room
from cellengine.engine.report import write_report
from cellengine.engine.report.statistics import STEPS_PER_OCTAVE, Histogram, RunStatistics, Seams
from cellengine.errors import PartialFailure
from cellengine.io import read_table, write_table
from tests.engine.blobs import write_blob_model
from tests.synthetic import draw_cells

FP32 = Device("auto", "onnxruntime", "fp32")


class Page(HTMLParser):
    """Checks that every element is closed and that nothing is fetched."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The output of a run over two pictures, one with a name that means something to a browser."""
    write_blob_model(tmp_path / "grey.onnx")
    for i, name in enumerate(("a.tif", "<script>alert(1)</script>&.tif".replace("/", "_"))):
        tifffile.imwrite(tmp_path / name, draw_cells((96, 80), 20, i)[0])
    inputs = sorted(str(path) for path in tmp_path.glob("*.tif"))
    infer_files(inputs, str(tmp_path / "grey.onnx"), tmp_path / "out", InferOptions(), FP32)
    return tmp_path / "out"


def tables(output: Path) -> list[dict[str, Any]]:
    return [read_table(path) for path in sorted(output.glob("*.objects.csv"))]


def test_the_numbers_are_those_of_the_tables(run: Path) -> None:
    found = json.loads((run / "report.json").read_text())
    both = tables(run)
    area = np.concatenate([table["area_px"] for table in both])
    score = np.concatenate([table["score"] for table in both])
    assert found["files"] == 2
    assert found["objects"] == len(area) > 0
    assert found["touching_border"] == sum(table["touches_border"].sum() for table in both)
    assert found["size"]["mean"] == pytest.approx(area.mean())
    assert sum(found["size"]["counts"]) == len(area)
    assert sum(found["score"]) == len(score)
    assert found["size"]["median"] == pytest.approx(np.median(area), rel=0.15)
    assert found["largest"][0]["value"] == area.max()
    inside = np.concatenate([table["score"][table["touches_border"] == 0] for table in both])
    assert found["doubtful"][0]["value"] == pytest.approx(inside.min(), rel=1e-6)
    assert found["peak_memory_bytes"] > 0
    assert len(found["memory"]) >= 1


def test_the_page_is_whole_and_alone(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert not any(tag in ("script", "link", "iframe") for tag, _ in page.seen), "names of files are no markup"
    for tag, attributes in page.seen:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden")
    said = "".join(page.text)
    for words in ("Size of the objects", "Mean intensity", "Seconds by stage", "seams", "onnxruntime fp32"):
        assert words in said
    assert sum(tag == "img" for tag, _ in page.seen) >= 4, "objects are shown"


def test_inputs_that_have_gone_cost_only_their_pictures(tmp_path: Path) -> None:
    write_blob_model(tmp_path / "grey.onnx")
    for i in range(2):
        tifffile.imwrite(tmp_path / f"{i}.tif", draw_cells((96, 80), 20, i)[0])
    (tmp_path / "bad.tif").write_bytes(b"II*\0")
    inputs = [str(tmp_path / name) for name in ("0.tif", "1.tif", "bad.tif")]
    with pytest.raises(PartialFailure):
        infer_files(inputs, str(tmp_path / "grey.onnx"), tmp_path / "out", InferOptions(), FP32)
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (found["files"], found["failures"]) == (2, 1)
    (tmp_path / "0.tif").rename(tmp_path / "gone.tif")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    write_report(tmp_path / "out", run)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "the input cannot be read any more" in text
    assert "0.tif" in text
    assert text.count("<img") >= 4, "the other one's are shown"
    tifffile.imwrite(tmp_path / "0.tif", np.zeros((7, 9), np.uint8))
    write_report(tmp_path / "out", run)
    assert text == (tmp_path / "out" / "report.html").read_text(encoding="utf-8"), "another picture is no better"


@settings(max_examples=30)
@given(st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_quantiles_are_right_to_within_a_bin(values: list[float], share: float) -> None:
    counted = Histogram()
    for part in np.array_split(np.array(values), 3):
        counted.add(part)
    exact = sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]
    found = counted.quantile(share)
    assert found is not None
    assert abs(math.log2(found / exact)) <= 1.01 / STEPS_PER_OCTAVE
    edges, counts = counted.bars()
    assert sum(counts) == len(values)
    assert len(edges) == len(counts) + 1
    assert len(counts) <= 60
    assert edges[0] <= min(values) * 1.0001
    assert edges[-1] >= max(values) * 0.9999


def test_cut_cells_show_up_at_seams() -> None:
    random = np.random.default_rng(0)
    clean, cut = Seams(), Seams()
    edges = random.integers(0, 4096, 20_000).astype(np.float64)
    clean.add(edges, 4096, 512)
    off = (edges + 256) % 512 - 256
    cut.add(np.where(np.abs(off) <= 4, edges - off, edges), 4096, 512)
    assert clean.plain()["excess"] == 0
    assert cut.plain()["excess"] > 2


def test_places_on_series_name_their_plane(tmp_path: Path) -> None:
    random, n = np.random.default_rng(1), 5000
    y, x = random.integers(0, 1000, (2, n))
    score = random.uniform(0.75, 1, n)
    weak = (y < 256) & (x >= 512) & (x < 768)
    t = random.integers(0, 3, n)
    score[weak & (t == 2)] = 0.1
    table = {
        "label": np.arange(1, n + 1), "t": t, "score": score, "area_px": random.integers(20, 90, n),
        "bbox_y0": y, "bbox_y1": y + 8, "bbox_x0": x, "bbox_x1": x + 8,
        "intensity_mean_c0": random.uniform(0, 9, n), "touches_border": np.zeros(n, int),
    }  # fmt: skip
    write_table(tmp_path / "a.objects.csv", table)
    record = {
        "axes": "TYX",
        "shape": [3, 1008, 1008],
        "network_shape": [1008, 1008],
        "tile": [512, 512],
        "halo": [0, 0],
    }
    statistics = RunStatistics()
    statistics.add_file("a", record, tmp_path / "a.objects.csv")
    worst = statistics.windows.places()[0]
    assert dict(worst.at) == {"t": 2}
    assert worst.centre == (128, 640)
    assert statistics.objects == n


def test_places_of_a_deep_stack_are_compared_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_WINDOWS", 30)
    n = 20_000
    t = np.arange(n) // 50
    table = {
        "label": np.arange(1, n + 1), "t": t, "score": np.where(t == 123, 0.1, 0.6), "area_px": np.full(n, 50),
        "bbox_y0": np.zeros(n, int), "bbox_y1": np.full(n, 8), "bbox_x0": np.zeros(n, int), "bbox_x1": np.full(n, 8),
        "intensity_mean_c0": np.ones(n), "touches_border": np.zeros(n, int),
    }  # fmt: skip
    write_table(tmp_path / "a.objects.csv", table)
    shape = {"axes": "TYX", "shape": [400, 8, 8], "network_shape": [8, 8], "tile": [512, 512], "halo": [0, 0]}
    statistics = RunStatistics()
    statistics.add_file("a", shape, tmp_path / "a.objects.csv")
    assert dict(statistics.windows.places()[0].at) == {"t": 123}
