"""`cellengine train`: what it starts from, and how a sweep with failed runs ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from cellengine.cli import main
from cellengine.errors import InputError
from cellengine.train import loop, sweep
from cellengine.train.config import TrainConfig
from cellengine.zoo import bundled
from tests.train.test_sweep import pretend


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["train", "nuclei-unet", *arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """The `init` of every training, all of which are killed before their first checkpoint."""
    seen: list[Path | None] = []

    def killed(config: TrainConfig, folder: Path, *, init: Path | None, **others: Any) -> Path:
        seen.append(init)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", killed)
    monkeypatch.setattr(sweep, "train", killed)
    return seen


@pytest.mark.parametrize("more", [(), ("--folds", "2")])
def test_resume_starts_from_the_weights_of_the_first_call(
    tmp_path: Path, starts: list[Path | None], more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("-o", str(tmp_path / "run"), *more)
    assert run(*out, "--init", "nuclei") == 130
    assert run(*out, "--resume") == 130
    assert starts == [bundled()["nuclei"]] * 2
    assert run(*out, "--resume", "--init", "nuclei") == 2
    assert run("-o", str(tmp_path / "other"), *more, "--init", "nuclie") == 2
    assert "--init nuclie: there is no such file" in capsys.readouterr().err
    assert len(starts) == 2


def test_a_sweep_says_how_many_runs_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(config: TrainConfig, folder: Path, **others: Any) -> Path:
        if config.optimizer.rate > limit:
            raise InputError("The loss is nan at step 3.")
        return pretend(config, folder, 0.5)

    monkeypatch.setattr(sweep, "train", train)
    limit = 1.0
    arguments = ("-o", str(tmp_path / "out"), "--sweep", "--set", "optimizer.rate=[9.0, 1e-3]")
    assert run(*arguments) == 6
    said = capsys.readouterr()
    assert said.out.splitlines()[-2] == "0.5000  rate=0.001"
    assert said.err == ("error: 1 of 2 runs failed (rate=9), the table says why; --resume tries them again.\n")
    limit = 10.0
    assert run(*arguments, "--resume") == 0
    limit = 0.0
    assert run(*arguments[:1], str(tmp_path / "all"), *arguments[2:]) == 3
    assert capsys.readouterr().err == "error: The loss is nan at step 3.\n"
