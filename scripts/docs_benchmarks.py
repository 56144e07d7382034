"""The page of benchmarks: every result in benchmarks/results as tables, whatever its figures are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_ROWS, MOST_COLUMNS, LONGEST_LIST = 60, 12, 6
"""longer tables and lists stay in the files"""
APART = ("question", "date", "machine", "versions")


def benchmarks_page(results: Path) -> str:
    """One section a result: question, figures, machine."""
    parts = ["# Benchmarks\n\nEach section is a program in `benchmarks/` and what it wrote to `benchmarks/results/`.\n"]
    for path in sorted(results.glob("*.json")):
        result = json.loads(path.read_text("utf-8"))
        parts.append(section(path.stem, result if isinstance(result, dict) else {"result": result}))
    return "\n".join(parts)


def section(name: str, result: Mapping[str, Any]) -> str:
    """One result."""
    machine = result.get("machine") or {}
    where = ", ".join(
        part
        for part in (str(machine.get("processor", "")), f"{machine['cores']} cores" if "cores" in machine else "")
        if part
    )
    parts = [
        f"## {name}",
        str(result.get("question", "")),
        ", ".join(filter(None, (str(result.get("date", "")), where))),
    ]
    figures = {key: value for key, value in result.items() if key not in APART}
    single = {key: text for key, value in figures.items() if (text := cell(value)) is not None}
    if single:
        parts.append(table([{"figure": key, "value": text} for key, text in single.items()]))
    for key, value in figures.items():
        if key not in single:
            rows = rows_of(value)
            parts.append(f"**{key}**" + (f": {len(value)} entries, see the file." if rows is None else ""))
            if rows:
                parts.append(table(rows))
    return "\n\n".join(part for part in parts if part) + "\n"


def rows_of(value: Any) -> list[dict[str, str]] | None:
    """A list of records, or a dict of records or figures, as rows of texts; None of what is no table or too long."""
    if isinstance(value, list):
        if not value or len(value) > MOST_ROWS or not all(isinstance(one, dict) for one in value):
            return None
        return [flat(one) for one in value]
    if all(isinstance(one, dict) for one in value.values()):
        return [{"": key, **flat(one)} for key, one in value.items()] if len(value) <= MOST_ROWS else None
    return [{"figure": key, "value": text} for key, text in flat(value).items()]


def flat(record: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """A record of records as one; what is neither a figure nor a record is left out."""
    found: dict[str, str] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{key}, ")
        elif (text := cell(value)) is not None:
            found[f"{before}{key}"] = text
    return found


def cell(value: Any) -> str | None:
    """A figure, or a few whole ones, as text; None of anything else."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return " ".join(value.split()).replace("|", "/")
    if isinstance(value, list) and 0 < len(value) <= LONGEST_LIST and all(isinstance(one, int | str) for one in value):
        return ", ".join(str(one) for one in value)
    return None


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of any columns, in the order in which they first occur."""
    names = list(dict.fromkeys(name for row in rows for name in row))[:MOST_COLUMNS]
    lines = [
        " | ".join(names),
        "|".join("---" for _ in names),
        *(" | ".join(r.get(n, "") for n in names) for r in rows),
    ]
    return "\n".join(f"| {line} |" for line in lines)
