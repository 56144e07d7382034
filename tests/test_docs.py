"""What README and docs tell the reader to type: every command is one, and does its work as far as a test can wait."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
import tifffile

from cellengine.cli import group, main
from cellengine.geometry import Region
from cellengine.io.axes import Layout, name_dimensions
from cellengine.io.source import BaseSource
from tests.engine.conftest import small_spec, write_tiny_model
from tests.synthetic import draw_cells

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
EXTRA_OF_COMMAND = {"train": "torch", "export": "torch", "watch": "uvicorn"}

SHELL = ("", "sh", "bash", "console")
BLOCK = re.compile(r"```(?P<kind>\w*)\n(?P<body>.*?)```", re.S)


def commands(page: Path) -> list[list[str]]:
    """The `cellengine` lines of a page: of its fenced and its indented blocks."""
    text = page.read_text(encoding="utf-8")
    blocks = [m["body"] for m in BLOCK.finditer(text) if m["kind"] in SHELL]
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


NOT_HERE = {
    "train": "it takes hours; tests/train runs it",
    "export": "it needs what `train` makes; tests/export runs it",
    "bench": "it takes minutes; tests/engine/test_benchmark.py runs it",
    "doctor": "it tests every model on every backend; tests/cli runs it",
}
"""commands that are only read here, and where they are run"""
ELSEWHERE = ("cuda:", "tcp:", "local:", "/")
"""devices, workers and folders that a test machine does not have"""


def runs_here(words: list[str]) -> bool:
    asked = any(word.startswith(ELSEWHERE) for word in words)
    return not asked and words[0] not in NOT_HERE and not words[0].startswith("-")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the docs speak of, small."""
    monkeypatch.chdir(tmp_path)
    for folder in ("plate", "incoming", "left", "right", "new-pictures", "crops", "truth"):
        Path(folder).mkdir()
    for i in range(2):
        image, labels = draw_cells((96, 96), 10, i)
        for folder in ("plate", "incoming", "left", "right", "new-pictures"):
            tifffile.imwrite(f"{folder}/{i}.tif", image)
        tifffile.imwrite(f"truth/{i}.tif", labels)
        tifffile.imwrite(f"crops/{i}.tif", image[:64, :64])
    Path("truth.csv").write_text("file,class\n0.tif,live\n1.tif,dead\n")
    stack = np.stack([draw_cells((48, 64), 10, seed)[0] for seed in range(3)])
    for name, channel in (("stack.ome.tif", "DAPI"), ("embryo.ome.tif", "nuclei")):
        size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
        tifffile.imwrite(name, stack[:, None], metadata={"axes": "ZCYX", "Channel": {"Name": [channel]}, **size})
    tifffile.imwrite("embryo.tif", stack, photometric="minisblack")
    for name, times in (("gland.ome.tif", (4, 2, 2)), ("gland-reduced.ome.tif", (4, 1, 1))):
        tifffile.imwrite(name, np.kron(stack, np.ones(times, np.uint8)), ome=True, metadata={"axes": "ZYX"})
    write_tiny_model(Path("my.onnx"), small_spec(channels=("gray",)))
    shutil.copy(ROOT / "src" / "cellengine" / "zoo" / "livedead.onnx", "livedead.onnx")
    return tmp_path


WITH_COMMANDS = [page for page in PAGES if any(runs_here(words) for words in commands(page))]


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in WITH_COMMANDS])
def test_the_commands_of_a_page_run(page: Path, place: Path) -> None:
    pytest.importorskip("uvicorn", reason="`watch` needs its extra")
    for words in filter(runs_here, commands(page)):
        if words[0] in ("infer", "watch") and "-o" in words:
            # every one of them stands for itself: an output holds one run
            shutil.rmtree(words[words.index("-o") + 1], ignore_errors=True)
        ending = ["--once", "--no-page"] if words[0] == "watch" and "--once" not in words else []
        with pytest.raises(SystemExit) as stop:
            main([*words, *ending])
        assert stop.value.code == 0, words


def test_the_example_of_a_source_can_be_read(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    known = {"BaseSource": BaseSource, "Layout": Layout, "name_dimensions": name_dimensions, "np": np, "Path": Path}
    made = {**known, "Array": np.ndarray}
    exec(code, made)
    pixels = np.arange(2048 * 2048, dtype=np.uint16).reshape(2048, 2048)
    pixels.tofile(tmp_path / "old.raw")
    with made["open_image"](tmp_path / "old.raw", None, None, 0) as source:
        assert (source.axes, source.shape) == ("YX", (2048, 2048))
        assert np.array_equal(source.read(Region((5, 7), (9, 20))), pixels[5:9, 7:20])
