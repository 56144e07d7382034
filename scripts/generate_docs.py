"""Writes the pages and pictures of the site that follow from the program itself: commands, models, benchmarks.

python scripts/generate_docs.py    (scripts/docs calls it before the site is built)
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np
from docs_benchmarks import benchmarks_page
from docs_pictures import write_pictures
from PIL import Image

from cellengine.cli import COMMANDS, main
from cellengine.cli.demo import separate_haematoxylin

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "generated"
REFUSED = 2
"""the exit code of a command that cannot be carried out as it was given"""
SHOWN = (
    ("infer", "plate", "-o", "results"),
    ("infer", "plate", "-o", "results"),
    ("infer", "plate", "-o", "planned", "--plan"),
    ("infer", "gone.tif", "-o", "results"),
    ("infer", "plate", "-o", "results", "--tile", "512"),
    ("evaluate", "results", "truth"),
    ("verify", "results"),
    ("watch", "plate", "-o", "watched", "--once", "--no-page", "--settle", "500ms"),
    ("models",),
    ("info", "nuclei"),
    ("info", "plate/0.png"),
)
"""what is run on two pictures of tissue to show what it prints, in this order; refusals with their exit code, too"""


def write_pages() -> None:
    os.environ |= {"COLUMNS": "110", "TERM": "dumb", "NO_COLOR": "1"}
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for name, text in (("commands", commands()), ("models", models())):
        (PAGES / f"{name}.md").write_text(text, encoding="utf-8")
    page = benchmarks_page(ROOT / "benchmarks" / "results")
    (PAGES / "benchmarks.md").write_text(page, encoding="utf-8")
    write_pictures(PAGES)


def commands() -> str:
    """`--help` of every command, and what some of them print."""
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place))
        printed: dict[str, list[str]] = {}
        for arguments in SHOWN:
            printed.setdefault(arguments[0], []).append(_run(Path(place), *arguments))
        parts = ["# Every command\n", _run(Path(place), "--help")]
        for name in COMMANDS:
            parts += [f"## {name}\n", _run(Path(place), name, "--help"), *printed.get(name, ())]
    return "\n".join(parts)


def prepare(place: Path) -> None:
    """Two pictures of tissue in `plate`, and in `truth` what `infer` finds in them on another day."""
    with (resources.files("skimage") / "data" / "ihc.png").open("rb") as file:
        tissue = separate_haematoxylin(np.asarray(Image.open(file).convert("RGB")))
    for folder in ("plate", "truth"):
        (place / folder).mkdir()
    for i in range(2):
        Image.fromarray(tissue[:, 256 * i : 256 * (i + 1)]).save(place / "plate" / f"{i}.png")
    _run(place, "infer", "plate", "-o", "before", "--precision", "fp32")
    for i in range(2):
        (place / "before" / f"{i}.labels.tif").rename(place / "truth" / f"{i}.tif")


def models() -> str:
    """The cards of the zoo below each other, after the list that the program prints."""
    cards = sorted((ROOT / "src" / "cellengine" / "zoo").glob("*.md"))
    parts = ["# Bundled models\n", _run(ROOT, "models")]
    for card in cards:
        lines = card.read_text("utf-8").splitlines()
        parts.append("\n".join("#" + line if line.startswith("#") else line for line in lines) + "\n")
    return "\n".join(parts)


def _run(place: Path, *arguments: str) -> str:
    """A command and what it prints, as a block; a refusal with its exit code."""
    printed, told, code = io.StringIO(), io.StringIO(), 0
    with contextlib.chdir(place), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
        try:
            main(list(arguments))
        except SystemExit as end:
            code = int(end.code or 0)
    if code not in (0, REFUSED):
        raise SystemExit(f"cellengine {' '.join(arguments)} ended with {code}: {told.getvalue()}")
    text = (printed.getvalue() + (told.getvalue() if code else "")).rstrip()
    for path, short in ((place.resolve(), "."), (ROOT, "."), (Path.home(), "~")):
        text = text.replace(str(path), short)
    end = f"\n$ echo $?\n{code}" if code else ""
    return f"```text\n$ cellengine {' '.join(arguments)}\n{text}{end}\n```\n"


if __name__ == "__main__":
    write_pages()
