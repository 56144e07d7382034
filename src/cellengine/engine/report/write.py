"""report.html and report.json of a finished run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cellengine.engine.journal import write_json
from cellengine.engine.report.gallery import draw_places
from cellengine.engine.report.statistics import SCORE_BINS, Extremes, Place, RunStatistics
from cellengine.io.sink import partial_name, writing
from cellengine.pages import charts
from cellengine.pages.html import document, facts, figures, number, paragraph, section, table

Plain = dict[str, Any]

HTML, JSON = "report.html", "report.json"
MOST_FILES = 40
"""files that the page lists; run.json has all"""
SHOWN = 6
"""pictures of each kind"""
UNITS = {"px": "px", "um2": "um²", "um3": "um³"}


def write_report(output: Path, run: Mapping[str, Any], memory: Sequence[tuple[float, int]] = ()) -> None:
    """Read the tables of a run and write its report.

    `run`: what goes into run.json; `memory`: seconds and bytes, as `MemoryTrace` gathers them. About 20 us an object;
    memory does not grow with their number. Raises ResourceError when the files cannot be written.
    """
    begun = time.perf_counter()
    statistics = RunStatistics()
    for name, record in run["files"].items():
        if "class" in record:  # of a crop that was classified as a whole
            statistics.classes[record["class"]] += 1
        for part in record.get("outputs", ()):
            if part.endswith(".objects.csv"):
                statistics.add_file(name, record, output / part)
    plain = {
        "files": len(run["files"]),
        "failures": len(run["failures"]),
        **statistics.plain(),
        "seconds": run["seconds"],
        "seconds_by_stage": _stages(run),
        "peak_memory_bytes": run["peak_memory_bytes"],
        "memory": [list(point) for point in memory],
        "model": run["model"],
        "versions": run["versions"],
    }
    body = _page(output, run, statistics, plain, memory)
    plain["report_seconds"] = round(time.perf_counter() - begun, 3)
    write_json(output / JSON, plain)
    partial = partial_name(output / HTML)
    title = f"{statistics.objects:,} objects in {_files(run)}" if statistics.objects else _files(run)
    with writing(output / HTML):
        partial.write_text(document(title, body), encoding="utf-8")
        partial.replace(output / HTML)


def _page(
    output: Path, run: Mapping[str, Any], found: RunStatistics, plain: Plain, memory: Sequence[tuple[float, int]]
) -> str:
    return "".join(
        (
            section("Found", _summary(run, found), _distributions(run, found)),
            section("Worth a look", _gallery(output, run, found)),
            section("Files", _file_table(run)),
            section("Failures", _failures(run)),
            section("Time and memory", _times(run, plain, memory)),
            section("Settings and versions", facts(_settings(run))),
        )
    )


def _files(run: Mapping[str, Any]) -> str:
    return "1 file" if len(run["files"]) == 1 else f"{len(run['files']):,} files"


def _summary(run: Mapping[str, Any], found: RunStatistics) -> str:
    unit = UNITS[found.unit]
    size = {name: found.size.quantile(share) for name, share in (("5 %", 0.05), ("median", 0.5), ("95 %", 0.95))}
    seams = found.seams.plain()
    entries: dict[str, object] = {
        "objects": f"{found.objects:,}, of which {found.border:,} touch the border",
        f"size, {unit}": ", ".join(f"{name} {number(value, 1)}" for name, value in size.items()),
        "cut at seams of tiles": f"{seams['excess']:.1%} more edges on seams than beside them "
        f"({seams['edges_on_seams']} found, {seams['edges_expected']} expected)"
        if seams["edges_expected"]
        else "no seams with objects",
        "failed inputs": len(run["failures"]),
    }
    return facts(entries)


def _distributions(run: Mapping[str, Any], found: RunStatistics) -> str:
    drawn = []
    if found.objects:
        drawn.append(charts.histogram("Size of the objects", *found.size.bars(), UNITS[found.unit], logarithmic=True))
    for channel, counted in sorted(found.intensity.items()):
        name = f"Mean intensity, channel {channel.removeprefix('c')}"
        drawn.append(charts.histogram(name, *counted.bars(), "grey levels", logarithmic=True))
    if found.score.any():
        edges = [i / SCORE_BINS for i in range(SCORE_BINS + 1)]
        drawn.append(charts.histogram("Score", edges, found.score.tolist(), "mean foreground"))
    if len(found.classes) > 1:
        drawn.append(charts.bars("By class", dict(sorted(found.classes.items())), "objects or pictures"))
    shares = {
        name: {kind: entry["share"] for kind, entry in record["classes"].items()}
        for name, record in list(run["files"].items())[:MOST_FILES]
        if record.get("classes")
    }
    if shares:
        drawn.append(charts.stacked("Classes by file", shares, "share"))
    return f'<div class="charts">{"".join(drawn)}</div>'


def _gallery(output: Path, run: Mapping[str, Any], found: RunStatistics) -> str:
    unit = "voxels" if found.unit == "um3" else "px"
    wanted: list[tuple[str, Place]] = []

    def take(kind: Extremes, text: str) -> None:
        for place in kind.places()[:SHOWN]:
            where = ", ".join(f"{axis} {index}" for axis, index in place.at.items())
            label = f", label {place.label}" if place.label is not None else ""
            value = text.format(place.value)
            wanted.append((f"{value}: {place.file}{', ' + where if where else ''}{label}", place))

    take(found.windows, "doubtful place")
    take(found.doubtful, "score {:.2f}")
    take(found.largest, "large, {:.0f} " + unit)
    take(found.smallest, "small, {:.0f} " + unit)
    drawn = draw_places(output, run, wanted)
    missing = [caption for i, (caption, _) in enumerate(wanted) if i not in drawn]
    note = paragraph("Not shown, the input cannot be read any more: " + "; ".join(missing)) if missing else ""
    return figures(drawn[i] for i in sorted(drawn)) + note


def _file_table(run: Mapping[str, Any]) -> str:
    rows = [
        [name, _found(record), number(_seconds(record), 2), "; ".join(record.get("warnings", ()))]
        for name, record in list(run["files"].items())[:MOST_FILES]
    ]
    more = len(run["files"]) - len(rows)
    shown = table(["file", "found", "seconds", "warnings"], rows) if rows else ""
    return shown + (paragraph(f"{more:,} more files are in run.json.") if more > 0 else "")


def _found(record: Mapping[str, Any]) -> str:
    return str(record["class"]) if "class" in record else f"{record.get('objects', 0):,}"


def _seconds(record: Mapping[str, Any]) -> float:
    return float(record.get("seconds", {}).get("total", 0.0))


def _failures(run: Mapping[str, Any]) -> str:
    rows = [[failure["file"], failure["hint"]] for failure in run["failures"][:MOST_FILES]]
    return table(["file", "reason"], rows) if rows else ""


def _stages(run: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by stage, all files together; stages overlap."""
    total: dict[str, float] = {}
    for record in run["files"].values():
        for stage, seconds in record.get("seconds", {}).items():
            if stage != "total":
                total[stage] = round(total.get(stage, 0.0) + seconds, 4)
    return total


def _times(run: Mapping[str, Any], plain: Plain, memory: Sequence[tuple[float, int]]) -> str:
    drawn = [charts.bars("Seconds by stage, all files; stages overlap", plain["seconds_by_stage"], "s")]
    files = list(run["files"].items())
    if len(files) > 1:
        slowest = sorted(files, key=lambda one: -one[1]["seconds"]["total"])[:12]
        rows = {n: {k: v for k, v in record["seconds"].items() if k != "total"} for n, record in slowest}
        drawn.append(charts.stacked("The slowest files", rows, "s"))
    if len(memory) > 1:
        drawn.append(charts.line("Memory of this process", [(s, b / 1e6) for s, b in memory], "s", "MB"))
    said = f"{run['seconds']:.1f} s in all; at most {run['peak_memory_bytes'] / 1e6:,.0f} MB of memory."
    return paragraph(said) + f'<div class="charts">{"".join(drawn)}</div>'


def _settings(run: Mapping[str, Any]) -> dict[str, object]:
    session = run["session"]
    entries: dict[str, object] = {
        "model": f"{run['model']['name']} ({run['model']['sha256'][:12]})",
        "ran on": f"{session.get('backend')} {session.get('precision')} on {session.get('device')}",
        "machine": f"{run['machine']['processor']}, {run['machine']['processors']} processors",
    }
    entries |= {name: value for name, value in run["settings"].items() if value not in (None, (), [], "auto")}
    return entries | dict(run["versions"])
