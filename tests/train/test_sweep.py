"""Many runs of one configuration: what is tried, what is found again, and the table at the end."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytest.importorskip("torch")

from cellengine.errors import InputError, UsageError
from cellengine.train.config import load_config
from cellengine.train.sweep import plan_trials, run_trials
from tests.synthetic import write_annotated
from tests.train.test_data import TINY
from tests.train.test_loop import SHORT


def test_every_combination_of_what_is_listed() -> None:
    trials = plan_trials(
        "nuclei-unet",
        ["data.crop_px=[[64, 64], [96, 96]]", "loss.distance=['bce', 'mse']", "model.widths=[8, 16]", "epochs=3"],
        sweep=True,
        folds=0,
    )
    assert [t.name for t in trials] == [
        "crop_px=64,distance=bce", "crop_px=64,distance=mse", "crop_px=96,distance=bce", "crop_px=96,distance=mse"
    ]  # fmt: skip
    assert {t.config.model.widths for t in trials} == {(8, 16)}, "a list that fits as a value is a value"
    assert [t.config.data.crop_px for t in trials] == [(64, 64), (64, 64), (96, 96), (96, 96)]
    assert all(t.config.epochs == 3 for t in trials)


def test_folds_validate_every_group_once(tmp_path: Path) -> None:
    data = write_annotated(tmp_path, 6)
    trials = plan_trials("nuclei-unet", [*TINY, f"data.path={str(data)!r}"], sweep=False, folds=3)
    from cellengine.train.data import item_of, list_pictures

    held = [{item_of(p).image.name for p in list_pictures(t.config)["val"]} for t in trials]
    assert sorted(name for names in held for name in names) == [f"cells_{i}.tif" for i in range(6)]
    for trial, names in zip(trials, held, strict=True):
        assert not names & {item_of(p).image.name for p in list_pictures(trial.config)["train"]}


def test_a_table_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[sweep]\n"optimizer.rate" = [1e-3, 2e-3]\n"seed" = [1, 2]\n')
    trials = plan_trials(str(path), [], sweep=True, folds=0)
    assert [(t.config.optimizer.rate, t.config.seed) for t in trials] == [
        (1e-3, 1), (1e-3, 2), (2e-3, 1), (2e-3, 2)
    ]  # fmt: skip
    for call in (lambda: plan_trials(str(path), [], sweep=False, folds=2), lambda: load_config(str(path))):
        with pytest.raises(UsageError, match="add --sweep"):
            call()
    with pytest.raises(UsageError, match="nothing to try"):
        plan_trials("nuclei-unet", [], sweep=True, folds=0)
    with pytest.raises(InputError, match="not a multiple of"):
        plan_trials("nuclei-unet", ["data.crop_px=[[64, 64], [70, 70]]"], sweep=True, folds=0)


def test_a_stopped_sweep_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    data = write_annotated(tmp_path / "data", 4)
    settings = [
        *TINY,
        *SHORT,
        "epochs=1",
        "preview_every=1",
        f"data.path={str(data)!r}",
        "loss.distance=['bce', 'mse']",
    ]
    trials = plan_trials("nuclei-unet", settings, sweep=True, folds=2)
    assert len(trials) == 4
    out = tmp_path / "out"
    run_trials(trials[:2], out, resume=False, init=None, device="cpu", echo=lambda line: None)
    with pytest.raises(UsageError, match="add --resume"):
        run_trials(trials, out, resume=False, init=None, device="cpu", echo=lambda line: None)
    done = (out / trials[0].name / "last.pt").stat().st_mtime_ns
    rows = run_trials(trials, out, resume=True, init=None, device="cpu", echo=lambda line: None)
    assert (out / trials[0].name / "last.pt").stat().st_mtime_ns == done
    assert len(rows) == 4
    with (out / "sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["fold"] for row in table] == ["0", "1"] * 2 + ["mean", "sd"] * 2
    mean = (float(table[0]["score"]) + float(table[1]["score"])) / 2
    assert float(table[4]["score"]) == pytest.approx(mean, abs=1e-5)
    assert (out / "sweep.png").stat().st_size > 1000
