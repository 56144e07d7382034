"""The training loop, to be read from top to bottom. One process, one device."""

from __future__ import annotations

import copy
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from cellengine.errors import InputError, ModelError, UsageError
from cellengine.models import build
from cellengine.models.checkpoint import load_checkpoint, save_checkpoint
from cellengine.records import to_plain
from cellengine.spec import ModelSpec
from cellengine.train.config import OptimizerConfig, TrainConfig
from cellengine.train.recipes import RECIPES, Batch, Recipe, Validation
from cellengine.train.report import Report, history_from_json

Echo = Callable[[str], None]


@dataclass(slots=True)
class State:
    """What changes while training, and what a checkpoint keeps."""

    model: nn.Module
    average: nn.Module
    """exponential moving average of `model`: what is validated and exported"""
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    """finished epochs"""
    step: int = 0
    best: float = -math.inf
    stale: int = 0
    """validations since the best"""
    rate_factor: float = 1.0
    """of the plateau schedule"""


def train(config: TrainConfig, folder: Path, *, resume: bool, init: Path | None, echo: Echo) -> Path:
    """Train `config` and return the path of the best checkpoint, `folder/best.pt`.

    Writes last.pt after every epoch, best.pt whenever the validation score rises, metrics.csv, curves.png,
    preview_*.png and TensorBoard's files. With `resume` a run goes on from last.pt and, on a CPU, ends with the same
    bits as one that was never stopped. `init` starts from the weights of another checkpoint of the same network.
    """
    recipe = RECIPES[config.task](config)
    echo(recipe.summary())
    torch.manual_seed(config.seed)
    state = _new_state(config, init)
    history = _resume(state, config, folder) if resume else _start(folder)
    report = Report(folder, history)
    try:
        while state.epoch < config.epochs and not _should_stop(state, config):
            row = _train_epoch(state, recipe, config)
            if state.epoch % config.validate_every == 0 or state.epoch == config.epochs:
                result = recipe.validate(state.average)
                row |= {f"val_{k}": v for k, v in result.scores.items()}
                _judge(state, result, recipe.spec, config, folder)
                if state.epoch % config.preview_every == 0 or state.epoch == config.epochs:
                    report.preview(state.epoch, result.draw())
            report.add(row)
            echo(_line(row, config))
            save_checkpoint(folder / "last.pt", _to_checkpoint(state, config, report.history))
    finally:
        report.close()
    return folder / "best.pt"


def _train_epoch(state: State, recipe: Recipe, config: TrainConfig) -> dict[str, float]:
    count, begun = config.data.samples_per_epoch, time.perf_counter()
    first = state.epoch * count
    loader = DataLoader(
        recipe.samples,
        config.batch,
        sampler=range(first, first + count),
        num_workers=config.data.workers,
        drop_last=True,
        prefetch_factor=4 if config.data.workers else None,
    )
    sums: dict[str, float] = defaultdict(float)
    state.model.train()
    for batch in loader:
        for name, value in _train_step(state, recipe, tuple(batch), config).items():
            sums[f"loss_{name}"] += value
    state.epoch += 1
    seconds = time.perf_counter() - begun
    steps = count // config.batch
    means = {name: value / steps for name, value in sums.items()}
    return {"epoch": state.epoch, **means, "rate": _rate(state, config), "seconds": seconds}


def _train_step(state: State, recipe: Recipe, batch: Batch, config: TrainConfig) -> dict[str, float]:
    rate = _rate(state, config)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    if batch[0].ndim == 4:
        batch = (batch[0].contiguous(memory_format=torch.channels_last), *batch[1:])
    torch.manual_seed(config.seed * 1_000_003 + state.step)  # what is random in a step follows from its number
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        terms = recipe.losses(state.model, batch)
    total = torch.stack(list(terms.values())).sum()
    if not torch.isfinite(total):
        raise InputError(
            f"The loss is {total.item()} at step {state.step} (epoch {state.epoch + 1}): "
            "lower optimizer.rate or train in fp32; last.pt holds the epoch before."
        )
    state.optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    if config.optimizer.gradient_clip:
        nn.utils.clip_grad_norm_(state.model.parameters(), config.optimizer.gradient_clip)
    state.optimizer.step()
    state.step += 1
    _update_average(state, config.optimizer.ema_decay)
    return {name: float(value.detach()) for name, value in {**terms, "total": total}.items()}


def _rate(state: State, config: TrainConfig) -> float:
    """Learning rate of the next step: warm-up, then what the schedule says. A function of the state alone."""
    settings = config.optimizer
    total = config.epochs * (config.data.samples_per_epoch // config.batch)
    if state.step < settings.warmup_steps:
        return settings.rate * (state.step + 1) / settings.warmup_steps
    if settings.schedule == "cosine":
        done = (state.step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
        return settings.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))
    return settings.rate * state.rate_factor


@torch.no_grad()
def _update_average(state: State, decay: float) -> None:
    """Move the average towards the weights; early on faster, so that the start is forgotten."""
    decay = min(decay, (1 + state.step) / (10 + state.step)) if decay else 0.0
    for mean, value in zip(state.average.state_dict().values(), state.model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def _judge(state: State, result: Validation, spec: ModelSpec, config: TrainConfig, folder: Path) -> None:
    """Keep the best weights, with all that export needs to know; count validations without progress."""
    if result.score > state.best:
        state.best, state.stale = result.score, 0
        best = {
            "model": state.average.state_dict(),
            "network": json.dumps(to_plain(config.model)),
            "spec": replace(spec, metrics=result.scores).to_json(),
            "data": config.data.path,
            "config": config.to_json(),
            "epoch": state.epoch,
        }
        save_checkpoint(folder / "best.pt", best)
        return
    state.stale += 1
    if config.optimizer.schedule == "plateau" and state.stale % config.optimizer.plateau_patience == 0:
        state.rate_factor /= 2


def _should_stop(state: State, config: TrainConfig) -> bool:
    return bool(config.early_stop) and state.stale >= config.early_stop


def _new_state(config: TrainConfig, init: Path | None) -> State:
    model = build(config.model)
    if init is not None:
        try:
            model.load_state_dict(load_checkpoint(init)["model"])
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ModelError(f"{init}: its weights are of another network ({reason}).") from error
    if config.model.dims == 2:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return State(model, copy.deepcopy(model).eval(), _optimizer(model, config.optimizer))


def _optimizer(model: nn.Module, settings: OptimizerConfig) -> torch.optim.Optimizer:
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups: Sequence[dict[str, Any]] = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if settings.method == "sgd":
        return torch.optim.SGD(groups, settings.rate, momentum=settings.momentum, nesterov=True)
    return torch.optim.AdamW(groups, settings.rate)


def _start(folder: Path) -> list[dict[str, float]]:
    if (folder / "last.pt").exists():
        raise UsageError(f"{folder} holds a run already: add --resume to go on, or choose another -o.")
    return []


def _resume(state: State, config: TrainConfig, folder: Path) -> list[dict[str, float]]:
    """Load last.pt into `state`; without one the run starts from the beginning."""
    path = folder / "last.pt"
    if not path.exists():
        return []
    saved = load_checkpoint(path)
    if TrainConfig.from_json(saved["config"]) != config:
        changed = [k for k, v in json.loads(config.to_json()).items() if json.loads(saved["config"]).get(k) != v]
        raise UsageError(f"{path} was trained with other settings ({', '.join(changed)}): choose another -o.")
    state.model.load_state_dict(saved["model"])
    state.average.load_state_dict(saved["average"])
    state.optimizer.load_state_dict(saved["optimizer"])
    for name in ("epoch", "step", "best", "stale", "rate_factor"):
        setattr(state, name, saved[name])
    return history_from_json(saved["history"])


def _to_checkpoint(state: State, config: TrainConfig, history: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "model": state.model.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "epoch": state.epoch,
        "step": state.step,
        "best": state.best,
        "stale": state.stale,
        "rate_factor": state.rate_factor,
        "config": config.to_json(),
        "history": json.dumps(history),
    }


def _line(row: dict[str, float], config: TrainConfig) -> str:
    shown = {k.removeprefix("loss_"): v for k, v in row.items() if k.startswith(("loss", "val"))}
    parts = ", ".join(f"{k} {v:.4f}" for k, v in shown.items())
    left = (config.epochs - row["epoch"]) * row["seconds"] / 60
    return f"epoch {int(row['epoch'])}/{config.epochs}: {parts}; {row['seconds']:.0f} s, about {left:.0f} min left"
