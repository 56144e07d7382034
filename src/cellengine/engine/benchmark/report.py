"""The files of a benchmark: bench.csv, bench.json, bench.md, and bench.html with charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path

from cellengine.engine.backends.hardware import cpu_count, cpu_name, cuda_devices
from cellengine.engine.benchmark.cases import COLUMNS, BenchResult
from cellengine.engine.environment import versions
from cellengine.engine.journal import write_json
from cellengine.io import write_table
from cellengine.io.sink import writing
from cellengine.pages.charts import bars, line
from cellengine.pages.html import document, facts, section, table
from cellengine.records import to_plain

SHOWN = (
    "model", "backend", "device", "precision", "tile", "batch", "load s", "build s", "p50 ms", "p90 ms", "p99 ms",
    "Mvoxel/s", "RAM MB", "GPU MB", "parity",
)  # fmt: skip
"""columns for people"""


def write_report(folder: Path, results: Sequence[BenchResult]) -> list[Path]:
    """Write the four files into `folder`, each whole or not at all; returns their paths."""
    paths = [folder / f"bench.{kind}" for kind in ("csv", "json", "md", "html")]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    rows = [result.row() for result in results]
    write_table(paths[0], {name: [_cell(row[name]) for row in rows] for name in COLUMNS})
    machine = {"processor": cpu_name(), "processors": cpu_count(), "cuda_devices": cuda_devices()}
    write_json(paths[1], {"machine": machine, "versions": versions(), "results": [to_plain(r) for r in results]})
    _write(paths[2], _markdown(results))
    page = [
        facts({**machine, **versions()}),
        section("Combinations", table(SHOWN, shown_rows(results))),
        section("Skipped", table(("combination", "reason"), skipped_rows(results))),
        section("Charts", *charts(results)),
    ]
    _write(paths[3], document("cellengine bench", "".join(page)))
    return paths


def shown_rows(results: Iterable[BenchResult]) -> list[tuple[str, ...]]:
    """What was measured, fastest first within a model."""
    measured = sorted((r for r in results if not r.skipped), key=lambda r: (r.model, -(r.voxels_per_s or 0.0)))
    return [
        (
            *(r.model, r.backend, r.device, r.precision, r.tile_text, str(r.batch)),
            _number(r.load_s, ".2f"),
            _number(r.build_s, ".2f"),
            *(_number(r.percentile_ms(share), ".1f") for share in (0.5, 0.9, 0.99)),
            _number(r.voxels_per_s, ".3f", 1e6),
            _number(r.peak_rss_bytes, ".0f", 1e6),
            _number(r.peak_device_bytes, ".0f", 1e6),
            r.parity,
        )
        for r in measured
    ]


def skipped_rows(results: Iterable[BenchResult]) -> list[tuple[str, str]]:
    """What was not measured, and why; each reason once."""
    found = {(f"{r.model}: {r.name}", r.skipped): None for r in results if r.skipped}
    return list(found)


def charts(results: Sequence[BenchResult]) -> list[str]:
    """Speed by combination, latency by batch and memory by tile, as SVG."""
    measured = [r for r in results if r.voxels_per_s]
    drawn = []
    for model in dict.fromkeys(r.model for r in measured):
        own = [r for r in measured if r.model == model]
        fastest: dict[str, float] = {}
        for r in own:
            fastest[r.name] = max(fastest.get(r.name, 0.0), (r.voxels_per_s or 0.0) / 1e6)
        drawn.append(bars(f"{model}: speed", fastest, "Mvoxel/s"))
        for name in fastest:
            several = [r for r in own if r.name == name]
            batches = {r.batch: r.percentile_ms(0.5) or 0.0 for r in several if r.tile == several[0].tile}
            if len(batches) > 1:
                drawn.append(line(f"{model}, {name}: latency by batch", sorted(batches.items()), "tiles", "ms"))
            tiles = {float(prod(r.tile)): _megabytes(r) for r in several if r.batch == several[0].batch}
            if len(tiles) > 1:
                drawn.append(line(f"{model}, {name}: memory by tile", sorted(tiles.items()), "voxels", "MB"))
    return drawn


def _megabytes(result: BenchResult) -> float:
    return (result.peak_device_bytes or result.peak_rss_bytes or 0) / 1e6


def _markdown(results: Sequence[BenchResult]) -> str:
    def block(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
        lines = [header, ["---"] * len(header), *rows]
        return ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in lines]

    lines = ["# cellengine bench", "", f"{cpu_name()}, {cpu_count()} processors, {cuda_devices()} CUDA devices", ""]
    lines += block(SHOWN, shown_rows(results))
    if skipped := skipped_rows(results):
        lines += ["", "Skipped:", "", *block(("combination", "reason"), skipped)]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(value: float | None, form: str, unit: float = 1.0) -> str:
    return "-" if value is None else format(value / unit, form)
