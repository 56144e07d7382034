"""What changes while training, and how it is kept: everything a run needs to go on to the same bits."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cellengine.errors import UsageError
from cellengine.models import build
from cellengine.models.checkpoint import load_checkpoint
from cellengine.models.session import LAYOUTS
from cellengine.train.config import TrainConfig
from cellengine.train.optimizer import Followed, build_optimizer
from cellengine.train.place import Place
from cellengine.train.report import Row, history_from_json


@dataclass(slots=True)
class State:
    """What changes while training, and what a checkpoint keeps."""

    model: nn.Module
    average: nn.Module
    """exponential moving average of `model`: what is validated and exported"""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """scales the loss of fp16, so that small gradients are not lost; does nothing otherwise"""
    followed: Followed = field(init=False)
    epoch: int = 0
    """finished epochs"""
    step: int = 0
    best: float = -math.inf
    mark: float = -math.inf
    """the last score that counted as better: `min_delta` above the one before"""
    stale: int = 0
    """validations since then"""
    rate_factor: float = 1.0
    """of the plateau schedule"""
    sums: dict[str, float] = field(default_factory=dict)
    """losses of the epoch in hand, summed over its steps"""

    def __post_init__(self) -> None:
        self.followed = Followed.of(self.model, self.average)


NUMBERS = ("epoch", "step", "best", "mark", "stale", "rate_factor")


def new_state(config: TrainConfig, place: Place, start: Callable[[nn.Module], None] = lambda model: None) -> State:
    """Fresh weights, after `start` has put others in their place, on the device."""
    model = build(config.model)
    start(model)
    if config.checkpointing:
        if not hasattr(model, "checkpointing"):
            raise UsageError(f"checkpointing: a {config.model.kind} network cannot; leave it out.")
        model.checkpointing = True  # type: ignore[assignment]
    model = model.to(place.device)
    model = model.to(memory_format=LAYOUTS[config.model.dims])  # type: ignore[call-overload]
    scaler = torch.amp.GradScaler(place.device.type, enabled=config.precision == "fp16")
    return State(model, copy.deepcopy(model).eval(), build_optimizer(model, config.optimizer), scaler)


def begin_run(folder: Path) -> list[Row]:
    """The history of a run that begins: empty. Raises UsageError when `folder` holds one already."""
    if (folder / "last.pt").exists():
        raise UsageError(f"{folder} holds a run already: add --resume to go on, or choose another -o.")
    return []


def resume_run(state: State, config: TrainConfig, folder: Path) -> list[Row]:
    """Load last.pt into `state` and return its history; without one the run starts from the beginning."""
    path = folder / "last.pt"
    if not path.exists():
        return []
    saved = load_checkpoint(path)
    # the precision is the machine's: a run may go on where another one is at home
    before = replace(TrainConfig.from_json(saved["config"]), precision=config.precision)
    if before != config:
        now, then = json.loads(config.to_json()), json.loads(before.to_json())
        changed = [name for name in now if now[name] != then[name]]
        raise UsageError(f"{path} was trained with other settings ({', '.join(changed)}): choose another -o.")
    state.model.load_state_dict(saved["model"])
    state.average.load_state_dict(saved["average"])
    state.optimizer.load_state_dict(_as_built(saved["optimizer"], state))
    if config.precision == "fp16" and saved["scaler"]:
        state.scaler.load_state_dict(saved["scaler"])
    for name in NUMBERS:
        setattr(state, name, saved.get(name, saved["best"] if name == "mark" else None))
    state.sums = json.loads(saved.get("sums", "{}"))
    return history_from_json(saved["history"])


def _as_built(saved: dict[str, Any], state: State) -> dict[str, Any]:
    """The optimizer's state of a checkpoint that may be older, to go on in one pass over weights, gradient and moments.

    That pass reads memory as it lies, so moments have to lie as their weights do.
    """
    built = state.optimizer.state_dict()["param_groups"]
    for group, now in zip(saved["param_groups"], built, strict=True):
        group.update({name: now[name] for name in ("fused", "foreach") if name in now})
    weights = [w for group in state.optimizer.param_groups for w in group["params"]]
    for number, moments in saved["state"].items():
        for name, values in moments.items():
            if isinstance(values, torch.Tensor) and values.shape == weights[number].shape:
                moments[name] = torch.empty_like(weights[number], device=values.device).copy_(values)
    return saved


def to_checkpoint(state: State, config: TrainConfig, history: list[Row]) -> dict[str, Any]:
    """What last.pt holds."""
    return {
        "model": state.model.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        **{name: getattr(state, name) for name in NUMBERS},
        "sums": json.dumps(state.sums),
        "config": config.to_json(),
        "history": json.dumps(history),
    }
