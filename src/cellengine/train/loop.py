"""The training loop, to be read from top to bottom. One process, or one a device under torchrun."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cellengine.engine.flow import Stop, stop_on_signals
from cellengine.errors import InputError, Interrupted, UsageError
from cellengine.models.checkpoint import save_checkpoint
from cellengine.records import to_plain
from cellengine.spec import ModelSpec
from cellengine.train.config import TrainConfig
from cellengine.train.feed import feed
from cellengine.train.optimizer import AVERAGE_EVERY, begin_phase, clip_gradient, rate_of_step, set_rate
from cellengine.train.place import Place, open_place
from cellengine.train.recipe import Batch, Recipe, Validation
from cellengine.train.recipes import RECIPES
from cellengine.train.report import Report, Row
from cellengine.train.start import start_from
from cellengine.train.state import State, begin_run, new_state, resume_run, to_checkpoint

Echo = Callable[[str], None]
Batches = Generator[Batch, None, None]

CHECKS = 24
"""crops of validation pictures that the validation losses are means of"""


def train(
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    device: str = "auto",
    echo: Echo = lambda line: None,
) -> Path:
    """Train `config` and return the path of the best checkpoint, `folder/best.pt`.

    Writes last.pt after every epoch and when a signal stops the run, best.pt whenever the validation score rises,
    metrics.csv, curves.png, preview_*.png and TensorBoard's files. With `resume` a run goes on from last.pt and, on a
    CPU, ends with the same bits as one that was never stopped. `init` starts from the weights of another checkpoint or
    exported model (.onnx) as far as they fit. Under torchrun every process calls this; the first one writes.

    Raises Interrupted after SIGINT or SIGTERM, once last.pt is written.
    """
    with open_place(device) as place, stop_on_signals() as stop:
        return _train(config, folder, resume, init, place, stop, echo if place.leads else lambda line: None)


def _train(
    config: TrainConfig, folder: Path, resume: bool, init: Path | None, place: Place, stop: Stop, echo: Echo
) -> Path:
    config = _settle(config, place, echo)
    recipe = RECIPES[config.task](config)
    echo(recipe.summary())
    torch.manual_seed(config.seed)
    started = init is not None and partial(start_from, path=init, samples=recipe.samples, echo=echo)
    state = new_state(config, place, started) if started else new_state(config, place)
    history = resume_run(state, config, folder) if resume else begin_run(folder)
    report = Report(folder, history) if place.leads else None
    try:
        with closing(feed(recipe.samples, state.step, config, place)) as batches:
            while state.epoch < config.epochs and not _should_stop(state, config):
                row = _train_epoch(state, recipe, batches, config, place, stop)
                if stop.signal_number is not None:
                    break
                if state.epoch % config.validate_every == 0 or state.epoch == config.epochs:
                    row |= _validate(state, recipe, config, folder, place, report)
                if report is not None:
                    report.add(row)
                    echo(_line(row, config))
                    save_checkpoint(folder / "last.pt", to_checkpoint(state, config, report.history))
    finally:
        if report is not None:
            report.close()
    if stop.signal_number is not None:
        if place.leads:
            save_checkpoint(folder / "last.pt", to_checkpoint(state, config, history))
        raise Interrupted(f"Stopped after step {state.step}; add --resume to go on from it.", stop.signal_number)
    return folder / "best.pt"


def _settle(config: TrainConfig, place: Place, echo: Echo) -> TrainConfig:
    """The configuration with the precision that the place is for. Raises UsageError for what does not fit there."""
    best = place.best_precision()
    if config.precision == "fp16" and place.device.type != "cuda":
        raise UsageError("precision fp16 trains on CUDA devices; on a CPU take bf16 or fp32.")
    if config.precision == "bf16" and best != "bf16":
        echo(f"{place.device} has no fast instructions for bf16: {best} takes less time (precision=auto).")
    if config.batch % (config.accumulate * place.world):
        raise UsageError(
            f"A batch of {config.batch} cannot be shared by {place.world} processes in {config.accumulate} parts each."
        )
    return replace(config, precision=best) if config.precision == "auto" else config


class Losses(nn.Module):
    """The losses of a batch as a module, which is what DistributedDataParallel can wrap."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe

    def forward(self, *batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every term by name."""
        return self.recipe.losses(self.model, batch)


def _train_epoch(state: State, recipe: Recipe, batches: Batches, config: TrainConfig, place: Place, stop: Stop) -> Row:
    """Go through an epoch, from where it was left; when a signal comes, no further than the step in hand."""
    begun = time.perf_counter()
    steps = config.steps_per_epoch
    place.forget_peaks()
    begin_phase(state.model, heads_only=state.epoch < config.heads_only_epochs, norm_rests=config.norm_rests)
    losses: nn.Module = Losses(state.model, recipe)
    if place.world > 1:
        losses = DistributedDataParallel(losses)
    for _ in range(state.step - state.epoch * steps, steps):
        parts = [next(batches) for _ in range(config.accumulate)]
        for name, value in _train_step(state, losses, parts, config, place).items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        if place.share(float(stop.signal_number or 0)):
            stop.signal_number = stop.signal_number or int(signal.SIGTERM)
            return {}
    _check_weights(state, config)
    if not config.optimizer.ema_decay:
        state.followed.move_average(state.step, 0.0)
    state.epoch += 1
    means = {f"loss_{name}": value / steps for name, value in state.sums.items()}
    state.sums = {}
    rate = rate_of_step(state.step, state.rate_factor, config)
    seconds = time.perf_counter() - begun
    return {"epoch": state.epoch, **means, "rate": rate, "seconds": seconds, **place.memory_mb()}


def _train_step(
    state: State, losses: nn.Module, parts: list[Batch], config: TrainConfig, place: Place
) -> dict[str, float]:
    """Move the weights once; the mean of every term over the parts of the batch."""
    set_rate(state.optimizer, rate_of_step(state.step, state.rate_factor, config))
    place.seed(config.seed * 1_000_003 + state.step * place.world + place.rank)  # a step is repeatable by itself
    state.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, float] = {}
    for i, part in enumerate(parts):
        waits = isinstance(losses, DistributedDataParallel) and i + 1 < len(parts)
        with losses.no_sync() if waits else nullcontext():  # type: ignore[operator]
            with _autocast(config, place):
                terms: dict[str, torch.Tensor] = losses(*place.bring(part))
            total = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(total):
                raise InputError(_not_finite(f"The loss is {total.item()}", state, config))
            state.scaler.scale(total / len(parts) if len(parts) > 1 else total).backward()  # type: ignore[no-untyped-call]
        for name, value in {**terms, "total": total}.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(parts)
    if config.optimizer.gradient_clip:
        state.scaler.unscale_(state.optimizer)
        clip_gradient(state.followed.weights, config.optimizer.gradient_clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    if config.optimizer.ema_decay and state.step % AVERAGE_EVERY == 0:
        state.followed.move_average(state.step, config.optimizer.ema_decay)
    return sums


def _autocast(config: TrainConfig, place: Place) -> torch.autocast:
    kind = torch.float16 if config.precision == "fp16" else torch.bfloat16
    return torch.autocast(place.device.type, kind, enabled=config.precision != "fp32")


def _not_finite(what: str, state: State, config: TrainConfig) -> str:
    batch = state.step - state.epoch * config.steps_per_epoch + 1
    kept = "last.pt holds the epoch before" if state.epoch else "no epoch is finished yet"
    return (
        f"{what} at step {state.step} (epoch {state.epoch + 1}, batch {batch} of {config.steps_per_epoch}): "
        f"lower optimizer.rate or train in fp32; {kept}."
    )


def _check_weights(state: State, config: TrainConfig) -> None:
    """A gradient can be infinite where the loss is not; such weights are not saved."""
    sums = [weights.detach().sum() for weights in state.model.state_dict().values() if weights.is_floating_point()]
    if not torch.isfinite(torch.stack([value.float() for value in sums])).all():
        raise InputError(_not_finite("Weights are not finite", state, config))


def _validate(
    state: State, recipe: Recipe, config: TrainConfig, folder: Path, place: Place, report: Report | None
) -> Row:
    """Validate in the first process; all of them learn what follows for rate and early stop."""
    row: Row = {}
    if report is not None:
        result = recipe.validate(state.average)
        losses = _validation_losses(state, recipe, config, place)
        row = {f"val_{k}": v for k, v in result.scores.items()} | losses
        _judge(state, result, recipe.spec, config, folder)
        if state.epoch % config.preview_every == 0 or state.epoch == config.epochs:
            report.preview(state.epoch, result.draw())
    for name in ("best", "mark", "rate_factor"):
        setattr(state, name, place.share(getattr(state, name)))
    state.stale = int(place.share(state.stale))
    return row


@torch.inference_mode()
def _validation_losses(state: State, recipe: Recipe, config: TrainConfig, place: Place) -> Row:
    """Means over the same crops of validation pictures every time; where they rise, training learns by heart."""
    parts = [recipe.checks.batch([i]) for i in range(CHECKS)]
    sums: Row = {}
    place.seed(config.seed)
    for part in parts:
        with _autocast(config, place):
            terms = recipe.losses(state.average, place.bring(part))
        for name, value in {**terms, "total": torch.stack(list(terms.values())).sum()}.items():
            sums[name] = sums.get(name, 0.0) + float(value) / len(parts)
    return {f"val_loss_{name}": value for name, value in sums.items()}


def _judge(state: State, result: Validation, spec: ModelSpec, config: TrainConfig, folder: Path) -> None:
    """Keep the best weights, with all that export needs to know; count validations without progress."""
    if result.score > state.best:
        state.best = result.score
        best = {
            "model": state.average.state_dict(),
            "network": json.dumps(to_plain(config.model)),
            "spec": replace(spec, metrics=result.scores).to_json(),
            "data": config.data.path,
            "config": config.to_json(),
            "epoch": state.epoch,
            "score": state.best,
        }
        save_checkpoint(folder / "best.pt", best)
    if result.score > state.mark + config.min_delta:
        state.mark, state.stale = result.score, 0
        return
    state.stale += 1
    settings = config.optimizer
    if settings.schedule == "plateau" and state.stale % settings.plateau_patience == 0:
        halved = state.rate_factor / 2
        state.rate_factor = halved if settings.rate * halved >= settings.least_rate else state.rate_factor


def _should_stop(state: State, config: TrainConfig) -> bool:
    return bool(config.early_stop) and state.stale >= config.early_stop


def _line(row: Row, config: TrainConfig) -> str:
    shown = {k.removeprefix("loss_"): v for k, v in row.items() if k.startswith(("loss_", "val_"))}
    shown = {k: v for k, v in shown.items() if not k.startswith("val_loss_") or k == "val_loss_total"}
    parts = ", ".join(f"{k} {v:.4f}" for k, v in shown.items())
    left = (config.epochs - row["epoch"]) * row["seconds"] / 60
    return f"epoch {int(row['epoch'])}/{config.epochs}: {parts}; {row['seconds']:.0f} s, about {left:.0f} min left"
