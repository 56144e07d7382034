"""Writes the pages of the site that follow from the program itself: commands, bundled models, benchmarks.

python scripts/generate_docs.py    (scripts/docs calls it before the site is built)
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cellengine.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "generated"
PROGRAM = [sys.executable, "-c", "from cellengine.cli import main; main()"]
SHOWN = (("models",), ("info", "nuclei"))
"""commands whose output is shown as well: those that change nothing"""
DEEPEST = 3
"""levels of a benchmark's figures that its table shows"""


def main() -> None:
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for name, text in (("commands", commands()), ("models", models()), ("benchmarks", benchmarks())):
        (PAGES / f"{name}.md").write_text(text, encoding="utf-8")


def commands() -> str:
    """`--help` of every command, and what some of them print."""
    parts = ["# Every command\n", _block("cellengine --help", _output("--help"))]
    for name in COMMANDS:
        parts.append(f"## {name}\n\n" + _block(f"cellengine {name} --help", _output(name, "--help")))
        for arguments in SHOWN:
            if arguments[0] == name:
                parts.append(_block(f"cellengine {' '.join(arguments)}", _output(*arguments)))
    return "\n".join(parts)


def models() -> str:
    """The cards of the zoo below each other."""
    cards = sorted((ROOT / "src" / "cellengine" / "zoo").glob("*.md"))
    return "# Bundled models\n\n" + "\n\n".join(
        "\n".join("#" + line if line.startswith("#") else line for line in card.read_text("utf-8").splitlines())
        for card in cards
    )


def benchmarks() -> str:
    """One section a result: question, figures, machine and versions."""
    parts = ["# Benchmarks\n\nEach section is a program in `benchmarks/` and the JSON that it wrote, as it stands.\n"]
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        result: dict[str, Any] = json.loads(path.read_text("utf-8"))
        machine = result.pop("machine", {})
        result.pop("versions", None)
        question, date = result.pop("question", ""), result.pop("date", "")
        where = ", ".join(str(machine[key]) for key in ("processor", "cores") if key in machine)
        rows = "\n".join(f"| {name} | {value} |" for name, value in _flat(result))
        parts.append(
            f"## {path.stem}\n\n{question}\n\n{date}, {where} cores.\n\n| figure | value |\n|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


def _flat(figures: dict[str, Any], before: str = "", depth: int = 1) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in figures.items():
        key = f"{before}{name}".replace("|", "/")
        if isinstance(value, dict) and depth < DEEPEST:
            found += _flat(value, f"{key}, ", depth + 1)
        elif isinstance(value, float):
            found.append((key, f"{value:.4g}"))
        elif not isinstance(value, (dict, list)):
            found.append((key, str(value).replace("|", "/")))
    return found


def _output(*arguments: str) -> str:
    done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.rstrip().replace(str(ROOT), ".")


def _block(command: str, output: str) -> str:
    return f"```text\n$ {command}\n{output}\n```\n"


if __name__ == "__main__":
    main()
