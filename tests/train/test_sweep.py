"""Many runs of one configuration: what is tried, what is found again, and the table at the end."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from cellengine.errors import InputError, UsageError
from cellengine.models.checkpoint import save_checkpoint
from cellengine.train import sweep
from cellengine.train.config import TrainConfig, load_config
from cellengine.train.data import item_of, list_pictures
from cellengine.train.describe import describe_model
from cellengine.train.sweep import Row, Trial, plan_trials, run_trials, write_table
from tests.synthetic import write_annotated
from tests.train.test_data import TINY
from tests.train.test_loop import SHORT


def pretend(config: TrainConfig, folder: Path, score: float, **metrics: float) -> Path:
    """What a training leaves behind, without the training."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = replace(describe_model(config, 10.0), metrics=metrics)
    save_checkpoint(folder / "best.pt", {"model": {}, "spec": spec.to_json(), "score": score, "epoch": 1})
    history = json.dumps([{"seconds": 2.0}])
    save_checkpoint(folder / "last.pt", {"model": {}, "history": history, "config": config.to_json()})
    return folder / "best.pt"


def run_all(trials: list[Trial], folder: Path, *, resume: bool = False, init: Path | None = None) -> list[Row]:
    return run_trials(trials, folder, resume=resume, init=init, device="cpu", echo=lambda line: None)


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


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
    held = [{item_of(p).image.name for p in list_pictures(t.config)["val"]} for t in trials]
    assert sorted(name for names in held for name in names) == [f"cells_{i}.tif" for i in range(6)]
    for trial, names in zip(trials, held, strict=True):
        assert not names & {item_of(p).image.name for p in list_pictures(trial.config)["train"]}


def fold_parts(path: Path, folds: int, seed: int) -> list[set[str]]:
    """Names of the pictures that each fold validates on."""
    settings = [*TINY, f"data.path={str(path)!r}", f"seed={seed}"]
    trials = plan_trials("nuclei-unet", settings, sweep=False, folds=folds)
    return [{item_of(p).image.name for p in list_pictures(t.config)["val"]} for t in trials]


def test_folds_keep_copies_of_a_picture_together(tmp_path: Path) -> None:
    """The list puts both into train and says no group; a fold must not validate on what it trains on."""
    data = write_annotated(tmp_path, 6)
    shutil.copy(data / "images" / "cells_0.tif", data / "images" / "cells_3.tif")
    rows = [f"images/cells_{i}.tif,labels/cells_{i}.tif,{'val' if i == 5 else 'train'}" for i in range(6)]
    (data / "list.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
    for seed in range(6):
        parts = fold_parts(data / "list.csv", 3, seed)
        assert sorted(name for part in parts for name in part) == [f"cells_{i}.tif" for i in range(6)]
        assert not [part for part in parts if len(part & {"cells_0.tif", "cells_3.tif"}) == 1]


def test_pictures_for_a_test_stay_out_of_the_folds(tmp_path: Path) -> None:
    data = write_annotated(tmp_path, 6)
    splits = ("train", "test", "train", "val", "test", "train")
    rows = [f"images/cells_{i}.tif,labels/cells_{i}.tif,{split}" for i, split in enumerate(splits)]
    (data / "list.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
    parts = fold_parts(data / "list.csv", 2, 1)
    assert sorted(name for part in parts for name in part) == [f"cells_{i}.tif" for i in (0, 2, 3, 5)]


@pytest.mark.parametrize(
    "setting",
    [
        "optimizer.rate=[0.12345671, 0.12345672]",
        "licence=['a/b', 'a_b']",
        "licence=['MIT', 'mit']",
        "model.widths=[[8, 16], [8, 8, 8], [8, 8]]",
    ],
)
def test_every_run_has_a_name_of_its_own(setting: str) -> None:
    trials = plan_trials("nuclei-unet", [setting], sweep=True, folds=2)
    assert len({t.name.casefold() for t in trials}) == len({t.config.to_json() for t in trials}) == len(trials)
    combinations = {tuple(v for k, v in t.settings.items() if k != "fold") for t in trials}
    assert len(combinations) == len(trials) // 2, "the table tells them apart, too"


def test_a_value_listed_twice_is_a_mistake() -> None:
    with pytest.raises(UsageError, match=r"optimizer\.rate is to be tried twice with the same value: 0\.1, 0\.2, 0\.1"):
        plan_trials("nuclei-unet", ["optimizer.rate=[0.1, 0.2, 0.1]"], sweep=True, folds=0)


def test_the_table_takes_the_scores_that_are_there(tmp_path: Path) -> None:
    """A kind of pictures may be missing in the part that a fold validates on, and a run may have failed."""
    rows: list[Row] = [
        {"fold": "0", "score": 0.5, "ap50_pink": 0.4},
        {"fold": "1", "score": 0.7, "ap50_grey": 0.2, "ap50_pink": 0.6},
        {"fold": "2", "failed": "The loss is nan."},
    ]
    write_table(rows, tmp_path / "sweep.csv")
    table = read_table(tmp_path)
    assert [row["fold"] for row in table] == ["0", "1", "2", "mean", "sd"]
    mean, sd = table[3:]
    assert (mean["score"], mean["ap50_pink"], mean["ap50_grey"]) == ("0.6", "0.5", "0.2")
    assert (sd["ap50_pink"], sd["ap50_grey"]) == ("0.141421", "")
    assert table[2]["failed"] == "The loss is nan."
    assert mean["failed"] == sd["failed"] == "1 of 3 folds"


RATES = "optimizer.rate=[1e-3, 2e-3, 3e-3]"


def test_a_run_that_fails_is_a_row_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def train(config: TrainConfig, folder: Path, *, resume: bool, **others: Any) -> Path:
        tried.append(config.optimizer.rate)
        if config.optimizer.rate in diverging:
            raise InputError("The loss is nan at step 3.")
        return pretend(config, folder, config.optimizer.rate)

    monkeypatch.setattr(sweep, "train", train)
    trials = plan_trials("nuclei-unet", [RATES], sweep=True, folds=0)
    diverging = {1e-3}
    rows = run_all(trials, tmp_path / "out")
    assert rows[0] == {"optimizer.rate": "0.001", "failed": "The loss is nan at step 3."}
    assert [row.get("score") for row in rows] == [None, 2e-3, 3e-3]
    assert [row["failed"] for row in read_table(tmp_path / "out")] == ["The loss is nan at step 3.", "", ""]
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 1000
    assert run_all(trials, tmp_path / "out", resume=True) == rows
    assert tried == [1e-3, 2e-3, 3e-3, 1e-3], "what failed is tried again, the others are done"
    diverging = {1e-3, 2e-3, 3e-3}
    with pytest.raises(InputError, match="The loss is nan at step 3"):
        run_all(trials, tmp_path / "all")
    assert len(read_table(tmp_path / "all")) == 3


def test_a_finished_run_of_other_settings_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "train", lambda config, folder, **others: pretend(config, folder, 0.5))
    out = tmp_path / "out"
    trials, others = (plan_trials("nuclei-unet", [RATES, f"batch={size}"], sweep=True, folds=0) for size in (8, 16))
    rows = run_all(trials, out)
    assert "config" not in rows[0]
    assert run_all(trials, out, resume=True) == rows
    monkeypatch.setattr(sweep, "train", None)  # it is refused before anything is trained
    with pytest.raises(UsageError, match=r"rate=0\.001.result\.json is the result of other settings \(batch\)"):
        run_all(others, out, resume=True)
    for trial in trials:  # as earlier versions wrote it
        place = out / trial.name / "result.json"
        place.write_text(json.dumps({k: v for k, v in json.loads(place.read_text()).items() if k != "config"}))
    assert run_all(trials, out, resume=True) == rows
    with pytest.raises(UsageError, match=r"other settings \(batch\)"):
        run_all(others, out, resume=True)


def test_runs_that_begin_after_a_stop_start_from_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Path | None] = []

    def train(config: TrainConfig, folder: Path, *, init: Path | None, **others: Any) -> Path:
        starts.append(init)
        if len(starts) == 2:
            raise KeyboardInterrupt
        return pretend(config, folder, 0.5)

    monkeypatch.setattr(sweep, "train", train)
    init = tmp_path / "init.pt"
    init.write_bytes(b"weights")
    trials = plan_trials("nuclei-unet", [RATES], sweep=True, folds=0)
    with pytest.raises(KeyboardInterrupt):
        run_all(trials, tmp_path / "out", init=init)
    run_all(trials, tmp_path / "out", resume=True)
    assert starts == [init] * 4
    init.write_bytes(b"others")
    run_all(trials, tmp_path / "out", resume=True)  # nothing is left that could begin
    shutil.rmtree(tmp_path / "out" / trials[2].name)
    with pytest.raises(UsageError, match=r"init\.pt, which has changed since"):
        run_all(trials, tmp_path / "out", resume=True)


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
