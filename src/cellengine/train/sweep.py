"""Many runs of one configuration: settings to try and parts to validate on; one table and one plot at the end."""

from __future__ import annotations

import copy
import csv
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from cellengine.errors import InputError, UsageError
from cellengine.models.checkpoint import load_checkpoint
from cellengine.spec import ModelSpec
from cellengine.train.beginning import BEGINNING, recall_start, remember_start
from cellengine.train.config import SWEEP, TrainConfig, build_config, read_settings, set_value, split_override
from cellengine.train.loop import train
from cellengine.train.report import save_figure

Echo = Callable[[str], None]
Row = dict[str, Any]

FOLD = "fold"
FAILED = "failed"
"""column of the reason why a run has no scores"""
RESULT = "result.json"


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a sweep."""

    name: str
    """of its folder, another one for every trial"""
    settings: dict[str, str]
    """what is tried, by `section.key`, and the fold"""
    config: TrainConfig


def plan_trials(name_or_path: str, overrides: Sequence[str], *, sweep: bool, folds: int) -> list[Trial]:
    """Every combination of the settings to try, and of each one run a fold.

    With `sweep` the table [sweep] of the file holds a list of values by `section.key`, and an override whose value is
    a list of values that fit where the list itself does not, is tried out too. With `folds` the pictures are
    shared out in so many parts, each of which is validated on once.

    Raises InputError or UsageError as `load_config` does, for any of the combinations, before the first run; UsageError
    for a value that is listed twice.
    """
    file, data = read_settings(name_or_path)
    table = data.pop(SWEEP, {})
    if not isinstance(table, dict) or not all(isinstance(v, list) and v for v in table.values()):
        raise InputError(f"{file}: [{SWEEP}] holds lists of values, such as {{ 'optimizer.rate' = [1e-3, 3e-3] }}.")
    if table and not sweep:
        raise UsageError(f"{file} has a table [{SWEEP}] of settings to try: add --sweep.")
    choices: dict[str, list[Any]] = dict(table)
    for override in overrides:
        key, value = split_override(override)
        if sweep and isinstance(value, list) and value and _are_choices(file, data, key, value):
            choices[key] = value
        else:
            choices.pop(key, None)
            set_value(data, key, value)
    if sweep and not choices:
        raise UsageError(f"--sweep: nothing to try; give lists in [{SWEEP}] of a TOML file, or --set KEY=[A, B].")
    if folds:
        if folds < 2:
            raise UsageError(f"--folds {folds}: expected at least 2.")
        set_value(data, "data.folds", folds)
        choices["data.fold"] = list(range(folds))
    texts = {key: _texts(key, values) for key, values in choices.items()}
    trials = [
        _trial(file, data, dict(zip(choices, values, strict=True)), dict(zip(texts, shown, strict=True)))
        for values, shown in zip(product(*choices.values()), product(*texts.values()), strict=True)
    ]
    names = {trial.name.casefold() for trial in trials}  # some file systems do not tell A from a
    if len(names) == len(trials):
        return trials
    return [replace(trial, name=f"{number},{trial.name}") for number, trial in enumerate(trials, 1)]


def run_trials(
    trials: Sequence[Trial], folder: Path, *, resume: bool, init: Path | None, device: str, echo: Echo
) -> list[Row]:
    """Run what is not done yet, each in its own folder under `folder`; write sweep.csv and sweep.png; return the rows.

    With `resume` finished runs are left as they are, the one that was stopped goes on, those that failed are tried
    again, and those that begin start from the weights that the first call was given. Of a run that fails by its numbers
    or pictures (InputError) the row says why under FAILED, and the others go on.

    Raises UsageError when a finished run had other settings, and the first run's InputError when all fail.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("Under torchrun one run at a time is shared out: leave --sweep and --folds out.")
    if not resume and folder.exists() and any(path.name != BEGINNING for path in folder.iterdir()):
        raise UsageError(f"{folder} holds files already: add --resume to go on, or choose another -o.")
    finished = {trial.name: _read_result(trial, folder) for trial in trials if (folder / trial.name / RESULT).exists()}
    if not resume:
        remember_start(folder, init)
    elif any(not (folder / t.name / "last.pt").exists() for t in trials if t.name not in finished):
        init = init or recall_start(folder)
    rows: list[Row] = []
    errors: list[InputError] = []
    for number, trial in enumerate(trials, 1):
        echo(f"run {number} of {len(trials)}: {trial.name}")
        try:
            result = finished.get(trial.name) or _run(trial, folder / trial.name, init, device, echo)
        except InputError as error:
            echo(f"failed: {error}")
            errors.append(error.with_traceback(None))  # it would keep the network and its device memory
            result = {FAILED: str(error)}
        rows.append({**trial.settings, **result})
        write_table(rows, folder / "sweep.csv")
    if len(errors) == len(trials):
        raise errors[0]
    save_figure(draw_sweep(rows), folder / "sweep.png")
    return rows


def write_table(rows: Sequence[Row], path: Path) -> None:
    """One row a run; after the runs of several folds their mean and standard deviation, with the fold so named.

    Each is over the folds that have the number: a kind of pictures may be missing in one, and a run may have failed.
    """
    table = list(rows)
    for settings, group in _by_settings(rows).items():
        if FOLD in rows[0] and len(group) > 1:
            table += [{**dict(settings), **row} for row in _over_folds(group)]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        names = list(dict.fromkeys(name for row in table for name in row))
        writer = csv.DictWriter(file, names)
        writer.writerow({name: name.removeprefix(".") for name in names})
        for row in table:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    partial.replace(path)


def draw_sweep(rows: Sequence[Row]) -> Any:
    """A matplotlib figure: the score of every run (dots) and their mean over folds, by the first setting tried.

    One line for each combination of the other settings; runs that failed are left out.
    """
    groups = _by_settings([row for row in rows if FAILED not in row])
    keys = [key for key, _ in next(iter(groups))]
    places = list(dict.fromkeys(dict(settings).get(keys[0], "") if keys else "" for settings in groups))
    figure, axis = plt.subplots(figsize=(max(5.0, 1.1 * len(places) + 2), 4), layout="constrained")
    lines: dict[str, list[tuple[int, float]]] = {}
    for settings, group in groups.items():
        at = places.index(dict(settings).get(keys[0], "") if keys else "")
        name = ", ".join(f"{key.removeprefix('.')} {value}" for key, value in settings[1:])
        lines.setdefault(name, []).append((at, statistics.fmean(row["score"] for row in group)))
        axis.plot([at] * len(group), [row["score"] for row in group], "o", color="0.6", markersize=4, zorder=1)
    for name, points in lines.items():
        axis.plot(*zip(*points, strict=True), marker="s", label=name)
    axis.set(xlabel=keys[0].removeprefix(".") if keys else "", ylabel="best validation score")
    axis.set_xticks(range(len(places)), places)
    axis.grid(alpha=0.3)
    if any(lines):
        axis.legend(fontsize=8)
    return figure


def _by_settings(rows: Sequence[Row]) -> dict[tuple[tuple[str, str], ...], list[Row]]:
    """The runs of each combination of settings, over folds."""
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        settings = tuple((k, v) for k, v in row.items() if "." in k)
        groups.setdefault(settings, []).append(row)
    return groups


def _over_folds(group: Sequence[Row]) -> list[Row]:
    """Mean and standard deviation of what the runs of one combination came to."""
    names = dict.fromkeys(k for row in group for k, v in row.items() if isinstance(v, float))
    numbers = {name: [row[name] for row in group if name in row] for name in names}
    failed = sum(FAILED in row for row in group)
    note = {FAILED: f"{failed} of {len(group)} folds"} if failed else {}
    return [
        {FOLD: "mean", **{k: statistics.fmean(v) for k, v in numbers.items()}, **note},
        {FOLD: "sd", **{k: statistics.stdev(v) for k, v in numbers.items() if len(v) > 1}, **note},
    ]


def _trial(file: str, data: dict[str, Any], values: Mapping[str, Any], texts: Mapping[str, str]) -> Trial:
    settings = copy.deepcopy(data)
    for key, value in values.items():
        set_value(settings, key, value)
    shown = {FOLD if key == "data.fold" else _dotted(key): text for key, text in texts.items()}
    name = ",".join(f"{key.strip('.').rpartition('.')[2]}={value}" for key, value in shown.items())
    return Trial("".join(c if c.isalnum() or c in "=,.-+" else "_" for c in name), shown, build_config(file, settings))


def _dotted(key: str) -> str:
    """Settings are told from results in a row by their dot."""
    return key if "." in key else f".{key}"


def _texts(key: str, values: Sequence[Any]) -> list[str]:
    """The values of one setting, each with a text of its own: exact where the short ones are alike."""
    short, exact = [_text(value) for value in values], [repr(value) for value in values]
    if len(set(exact)) < len(values):
        raise UsageError(f"{key} is to be tried twice with the same value: {', '.join(exact)}.")
    return short if len(set(short)) == len(values) else exact


def _text(value: Any) -> str:
    """A value as it stands in names and tables: equal sides of a crop once, others joined by x."""
    if isinstance(value, list):
        return _text(value[0]) if len(set(map(str, value))) == 1 else "x".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _are_choices(file: str, data: dict[str, Any], key: str, values: list[Any]) -> bool:
    """Whether a list does not fit as the value of a setting while some of its entries do; the others are mistakes."""
    return not _fits(file, data, key, values) and any(_fits(file, data, key, value) for value in values)


def _fits(file: str, data: dict[str, Any], key: str, value: Any) -> bool:
    changed = copy.deepcopy(data)
    set_value(changed, key, value)
    try:
        build_config(file, changed)
    except InputError:
        return False
    return True


def _run(trial: Trial, place: Path, init: Path | None, device: str, echo: Echo) -> Row:
    """Train what is left of one trial and keep what it came to, with the settings that it is the result of."""
    going_on = (place / "last.pt").exists()
    best = train(trial.config, place, resume=going_on, init=None if going_on else init, device=device, echo=echo)
    result = _result(best)
    partial = place / f".{RESULT}.partial"
    partial.write_text(json.dumps({**result, "config": trial.config.to_json()}), encoding="utf-8")
    partial.replace(place / RESULT)
    return result


def _read_result(trial: Trial, folder: Path) -> Row:
    """What a finished run came to. Raises UsageError when it is not of this trial's settings."""
    path = folder / trial.name / RESULT
    row: Row = json.loads(path.read_text(encoding="utf-8"))
    before = _settings_of(row.pop("config", None), path, trial)
    if before != trial.config:
        now, then = json.loads(trial.config.to_json()), json.loads(before.to_json())
        changed = [name for name in {**then, **now} if now.get(name) != then.get(name)]
        raise UsageError(f"{path} is the result of other settings ({', '.join(changed)}): choose another -o.")
    return row


def _settings_of(kept: str | None, path: Path, trial: Trial) -> TrainConfig:
    """The settings that a result was made with. Older results do not hold them, but the checkpoint beside them does."""
    if kept is not None:
        return TrainConfig.from_json(kept)
    saved = TrainConfig.from_json(load_checkpoint(path.with_name("last.pt"))["config"])
    return replace(saved, precision=trial.config.precision)  # a checkpoint says which one the machine chose


def _result(best: Path) -> Row:
    """What a finished run came to: its best score, the scores beside it, and what it took."""
    saved = load_checkpoint(best)
    spec = ModelSpec.from_json(saved["spec"], str(best))
    history = json.loads(load_checkpoint(best.with_name("last.pt"))["history"])
    return {
        "score": float(saved["score"]),
        **{name: float(value) for name, value in spec.metrics.items()},
        "epoch": int(saved["epoch"]),
        "seconds": float(sum(row["seconds"] for row in history)),
    }
