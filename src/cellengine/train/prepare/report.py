"""What was prepared, for people and programs: report.json, defects.csv, report.html beside the overview."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from cellengine.io import write_table
from cellengine.io.sink import partial_name, writing
from cellengine.train.prepare.frame import Defect
from cellengine.train.prepare.sheet import SPLIT_COLOURS

OVERVIEW, LIST = "overview.png", "list.csv"

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882 }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
thead th { background: var(--soft) } img { max-width: 100%; background: #000 }
"""


@dataclass(frozen=True, slots=True)
class DataReport:
    """Everything a reader of the data should know."""

    title: str
    settings: Mapping[str, Any]
    numbers: Mapping[str, Any]
    """one value or list of values a name"""
    defects: Sequence[Defect]
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """title -> rows, each with the same columns"""
    notes: Sequence[str] = ()


def write_report(output: Path, report: DataReport) -> None:
    """Write report.json, defects.csv and report.html into `output`; each appears complete or not at all."""
    columns = ("item", "problem", "consequence")
    write_table(output / "defects.csv", {name: [getattr(d, name) for d in report.defects] for name in columns})
    plain = {
        "title": report.title,
        "settings": dict(report.settings),
        "numbers": dict(report.numbers),
        "tables": {title: [dict(row) for row in rows] for title, rows in report.tables.items()},
        "notes": list(report.notes),
        "defects": [{name: getattr(d, name) for name in columns} for d in report.defects],
    }
    _write_text(output / "report.json", json.dumps(plain, indent=1) + "\n")
    _write_text(output / "report.html", _page(report))


def write_list(output: Path, rows: Sequence[Mapping[str, Any]], name: str = LIST) -> None:
    """Write the list that `train` and `evaluate` read: one row an item, the columns of the first row."""
    write_table(output / name, {column: [row[column] for row in rows] for column in rows[0]})


def count_by(rows: Sequence[Mapping[str, Any]], *columns: str) -> list[dict[str, Any]]:
    """How many rows have each combination of values, in order of the values."""
    counts = Counter(tuple(str(row[column]) for column in columns) for row in rows)
    return [{**dict(zip(columns, values, strict=True)), "items": n} for values, n in sorted(counts.items())]


def summary_lines(output: Path, rows: Sequence[Mapping[str, Any]], defects: Sequence[Defect]) -> list[str]:
    """What the command line says at the end."""
    splits = ", ".join(f"{row['items']} {row['split']}" for row in count_by(rows, "split"))
    kinds = Counter(defect.consequence for defect in defects)
    found = f"{len(defects)} defects ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common())})"
    return [
        f"{len(rows)} items ({splits}); {found if defects else 'no defects'}.",
        f"List for training and evaluation: {output / LIST}; what to know of the data: {output / 'report.html'}",
    ]


def _page(report: DataReport) -> str:
    legend = ", ".join(
        f'<span style="border-bottom:3px solid rgb{colour}">{split}</span>' for split, colour in SPLIT_COLOURS.items()
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in report.notes)
    tables = "".join(f"<h2>{escape(title)}</h2>{_table(rows)}" for title, rows in report.tables.items() if rows)
    defects = [{"item": d.item, "problem": d.problem, "consequence": d.consequence} for d in report.defects]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(report.title)}</h1>{notes}"
        f"<h2>Numbers</h2>{_pairs(report.numbers)}{tables}"
        f'<h2>Overview</h2><p>Frames: {legend}.</p><img src="{OVERVIEW}" alt="Some of the items with their labels">'
        f"<h2>Defects ({len(defects)})</h2>{_table(defects) if defects else '<p>None was found.</p>'}"
        f"<h2>Settings</h2>{_pairs(report.settings)}</body></html>\n"
    )


def _pairs(values: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(k.replace('_', ' '))}</td><td>{_cell(v)}</td></tr>" for k, v in values.items())
    return f'<div class="scroll"><table>{rows}</table></div>'


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{escape(str(name).replace('_', ' '))}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{_cell(v)}</td>" for v in row.values()) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(v) for v in value)
    return escape(str(value))


def _write_text(path: Path, text: str) -> None:
    with writing(path):
        partial = partial_name(path)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
