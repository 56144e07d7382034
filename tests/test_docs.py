"""What README and docs tell the reader to type: every command is one, and those marked `<!-- run -->` do their work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import tifffile

from cellengine.cli import group, main
from tests.synthetic import draw_cells

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
EXTRA_OF_COMMAND = {"train": "torch", "export": "torch", "watch": "uvicorn"}

SHELL = ("", "sh", "bash", "console")
BLOCK = re.compile(r"(?P<run><!-- run -->\n)?```(?P<kind>\w*)\n(?P<body>.*?)```", re.S)


def commands(page: Path, *, marked: bool = False) -> list[list[str]]:
    """The `cellengine` lines of a page: of its fenced and its indented blocks, or only of those that are to be run."""
    text = page.read_text(encoding="utf-8")
    shell = (m for m in BLOCK.finditer(text) if m["kind"] in SHELL)
    blocks = [m["body"] for m in shell if m["run"] or not marked]
    if not marked:
        blocks += re.findall(r"(?m)^    (cellengine (?:[^\n]*\\\n)*[^\n]*)", text)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    split = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if "cellengine " in line]
    starts = [next((i for i, word in enumerate(words) if word == "cellengine"), None) for words in split]
    return [words[i + 1 :] for words, i in zip(split, starts, strict=True) if i is not None and i < 2]


EVERY = [pytest.param(words, id=f"{page.name}: {' '.join(words)[:60]}") for page in PAGES for words in commands(page)]


def test_there_are_commands_to_check() -> None:
    assert len(EVERY) >= 20


@pytest.mark.parametrize("words", EVERY)
def test_every_command_is_one(words: list[str]) -> None:
    name, *arguments = words
    if name.startswith("-"):
        return
    if name in EXTRA_OF_COMMAND:
        pytest.importorskip(EXTRA_OF_COMMAND[name], reason=f"`{name}` needs its extra")
    with click.Context(group, info_name="cellengine") as context:
        command = group.get_command(context, name)
        assert command is not None, name
        command.make_context(name, arguments, parent=context)


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert target.startswith("generated/") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_marked_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvicorn", reason="`watch` needs its extra")
    monkeypatch.chdir(tmp_path)
    for folder in ("plate", "truth"):
        (tmp_path / folder).mkdir()
    for i in range(2):
        image, labels = draw_cells((128, 128), 12, i)
        tifffile.imwrite(f"plate/{i}.tif", image)
        tifffile.imwrite(f"truth/{i}.tif", labels)
    run = [words for page in PAGES for words in commands(page, marked=True)]
    assert {words[0] for words in run} >= {"infer", "evaluate", "watch"}
    for words in run:
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0, words
    assert Path("results/report.html").is_file()
    assert Path("watched/pictures.csv").is_file()
