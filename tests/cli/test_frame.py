"""The frame of the command line: names, one-line errors, exit codes, and nothing heavy at start-up."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import cellengine.cli
from cellengine.cli import COMMANDS, main
from cellengine.errors import (
    CellengineError,
    DeviceError,
    InputError,
    Interrupted,
    LockedError,
    ModelError,
    PartialFailure,
    ResourceError,
    UsageError,
)


@pytest.fixture
def boom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Registers a command `boom` that raises what it is told to."""
    error: list[BaseException] = []

    @click.command()
    @click.option("--number", type=int)
    def command(number: int | None) -> None:
        if error:
            raise error[0]
        click.echo(f"fine {number}")

    module = type(sys)("cellengine.cli.boom")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cellengine.cli.boom", module)
    monkeypatch.setitem(COMMANDS, "boom", "Fail.")
    return error


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    code = stop.value.code
    assert isinstance(code, int)
    return code


def test_help_names_every_command_without_loading_any(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in text


def test_start_up_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from cellengine.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'numpy', 'numba', 'torch', 'onnx', 'onnxruntime', 'openvino', 'scipy', 'rich', 'zarr'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_documented(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name in cellengine.cli.EXTRAS:
        pytest.importorskip("torch")
    assert isinstance(importlib.import_module(f"cellengine.cli.{name}").command, click.Command)
    assert run(name, "--help") == 0
    assert f"Usage: cellengine {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("cellengine ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CellengineError("what"), 1),
        (UsageError("what"), 2),
        (InputError("what"), 3),
        (ModelError("what"), 4),
        (ResourceError("what"), 5),
        (DeviceError("what"), 5),
        (MemoryError(), 5),
        (PartialFailure("what"), 6),
        (LockedError("what"), 75),
        (Interrupted("what"), 130),
        (Interrupted("what", signal.SIGTERM), 143),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("division by zero"), 1),
        (OSError(28, "No space left on device"), 1),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    boom: Any, error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    boom.append(error)
    assert run("boom") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert ("--debug" in err) == (code == 1 and not isinstance(error, CellengineError))


def test_messages_of_several_lines_become_one(boom: Any, capsys: pytest.CaptureFixture[str]) -> None:
    boom.append(InputError("first\n   second"))
    assert run("boom") == 3
    assert capsys.readouterr().err == "error: first second\n"


@pytest.mark.parametrize("arguments", [("--debug", "boom"), ("boom", "--debug")])
@pytest.mark.parametrize("error", [InputError("bad picture"), ZeroDivisionError("division by zero")])
def test_debug_shows_the_traceback(
    boom: Any, arguments: tuple[str, ...], error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    boom.append(error)
    assert run(*arguments) in (1, 3)
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text
    assert text.splitlines()[-1].startswith("error: ")
    boom.clear()
    assert run("boom") == 0
    boom.append(error)
    run("boom")
    assert "Traceback" not in capsys.readouterr().err, "one call with --debug does not change the next"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense",), "No such command 'nonsense'. See `cellengine --help`."),
        (("--nonsense",), "No such option '--nonsense'. See `cellengine --help`."),
        (("boom", "--nonsense"), "No such option '--nonsense'. See `cellengine boom --help`."),
        (("boom", "--number", "x"), "'x' is not a valid integer. See `cellengine boom --help`."),
    ],
)
def test_usage_errors_name_the_help(
    boom: Any, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_nothing_to_do_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "Commands:" in capsys.readouterr().err


def test_a_missing_extra_names_the_pip_command(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def without_torch(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cellengine.cli.importlib, "import_module", without_torch)
    assert run("train", "x") == 5
    assert "cellengine train needs the package torch" in (text := capsys.readouterr().err)
    assert "pip install 'cellengine[train]'" in text
    assert run("infer", "x") == 1, "a package of the base install that is missing is a broken installation"


@pytest.mark.skipif(os.name != "posix", reason="pipes of a POSIX shell")
def test_a_reader_that_leaves_is_no_error() -> None:
    program = f"{sys.executable} -c 'from cellengine.cli import main; main([\"--help\"])' | true"
    for _ in range(3):
        done = subprocess.run(["/bin/sh", "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_with_130() -> None:
    program = (
        "import sys, time, types, click, cellengine.cli as cli\n"
        "@click.command()\n"
        "def command():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(30)\n"
        "module = types.ModuleType('cellengine.cli.wait'); module.command = command\n"
        "sys.modules['cellengine.cli.wait'] = module; cli.COMMANDS['wait'] = 'Wait.'\n"
        "cli.main(['wait'])\n"
    )
    # a shell that runs the tests in the background ignores SIGINT, and its children would inherit that
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as p:
        assert p.stdout is not None
        assert p.stdout.readline() == "ready\n"
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=30)
    assert p.returncode == 130
    assert err.strip() == "error: interrupted"
