"""Weights out of an exported model, so that training can go on from a bundled one: BatchNorm, which export folds into
the convolutions, is unfolded again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from cellengine.engine.golden import check_golden, golden_input
from cellengine.engine.model_file import ModelFile, read_model_file
from cellengine.errors import ModelError
from cellengine.models.session import TorchSession
from cellengine.spec import INPUT_NAME
from cellengine.train.recipe import Batch

OWNER = "module."
"""what the exporter puts before the names of parameters"""
FOLDED = "_bias"
"""behind the name of a convolution's weight, where it has no bias: the one that it got from the BatchNorm behind it"""
Moments = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""count, sum and sum of squares a channel"""
UNFOLDED = 10.0
"""weights round anew when BatchNorm is unfolded: what answers differ by, times the tolerance of a backend"""
SAMPLES = 48
"""training samples that the statistics are measured on: some million values a channel"""


def exported_weights(model: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """The weights of the model file `path` by `model`'s names, with every BatchNorm a mere addition of its bias.

    Raises ModelError for a file that is no fp32 model, or whose network is another one.
    """
    file = read_model_file(path)
    if file.form is not None:
        raise ModelError(f"{path}: holds {file.form} weights; start from the fp32 model that it was made from.")
    graph = onnx.load_model_from_string(file.content).graph
    given = {t.name.removeprefix(OWNER): torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    weights = {name: value for name, value in given.items() if not name.endswith(FOLDED)}
    weights |= _pixel_scale(graph)
    for convolution, norm in _norms(model, file).items():
        weight, bias = given.get(f"{convolution}.weight"), given.get(f"{convolution}.weight{FOLDED}")
        if weight is None or f"{norm}.weight" in given:
            continue  # where several levels share a convolution, nothing is folded
        nothing, epsilon = torch.zeros(len(weight)), float(model.get_submodule(norm).eps)  # type: ignore[arg-type]
        weights[f"{norm}.weight"] = torch.ones(len(weight))
        weights[f"{norm}.bias"] = nothing if bias is None else bias  # a convolution's own bias took the other one in
        weights[f"{norm}.running_mean"] = nothing
        weights[f"{norm}.running_var"] = torch.full((len(weight),), 1 - epsilon)
    return weights


def _pixel_scale(graph: onnx.GraphProto) -> dict[str, torch.Tensor]:
    """A detector's mean and deviation of pixels, which export writes without their names: subtracted and divided by."""
    stored = {t.name: t for t in graph.initializer}
    found: dict[str, torch.Tensor] = {}
    arrived = INPUT_NAME
    for name, kind in (("pixel_mean", "Sub"), ("pixel_std", "Div")):
        for node in graph.node:
            if node.op_type == kind and node.input[0] == arrived and node.input[1] in stored:
                found[name] = torch.from_numpy(numpy_helper.to_array(stored[node.input[1]]).reshape(-1).copy())
                arrived = node.output[0]
                break
    return found


def check_answers(model: nn.Module, path: Path) -> None:
    """Raise ModelError unless `model`, in evaluation mode, answers what the file `path` says of its network.

    Of heads that `model` has not, nothing is asked.
    """
    file = read_model_file(path)
    if file.golden is None:
        return
    with TorchSession(model, file.spec) as session:
        heads = session.run(golden_input(file.golden.channels, file.golden.tile))
        shared = {name: output for name, output in file.golden.outputs.items() if name in heads}
        result = check_golden(session, replace(file.golden, outputs=shared), UNFOLDED)
    if not result.passed:
        raise ModelError(f"{path}: its weights fit this network by name, but answer otherwise ({result.problem}).")


def measure_norms(model: nn.Module, samples: Dataset[Batch]) -> None:
    """Give every BatchNorm the statistics that training would have left it, without changing what the model answers.

    What arrives at a BatchNorm has some mean and variance over training samples; they become its running statistics,
    and its scale and shift the inverse. In training mode, where a batch's own statistics are taken, it then answers
    almost as before instead of something else altogether.
    """
    sums: dict[str, list[Moments]] = {}
    images = [samples[i][0] for i in range(SAMPLES)]
    with _listening(model, sums), torch.inference_mode():
        for image in images:
            model(image[None])
    for name, parts in sums.items():
        norm = model.get_submodule(name)
        assert isinstance(norm, _BatchNorm)
        count, total, squares = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
        mean = total / count
        variance = (squares / count - mean**2).clamp_min(1e-6)
        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)  # type: ignore[union-attr]
        shift = norm.bias.double() - norm.running_mean.double() * scale  # type: ignore[union-attr]
        with torch.no_grad():
            norm.weight.copy_(scale * torch.sqrt(variance + norm.eps))
            norm.bias.copy_(shift + scale * mean)
            norm.running_mean.copy_(mean)  # type: ignore[union-attr]
            norm.running_var.copy_(variance)  # type: ignore[union-attr]


@contextmanager
def _listening(model: nn.Module, sums: dict[str, list[Moments]]) -> Iterator[None]:
    """Collect count, sum and sum of squares a channel of whatever arrives at each BatchNorm."""

    def listener(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hear(module: nn.Module, arrived: tuple[torch.Tensor, ...]) -> None:
            values = arrived[0].double().transpose(0, 1).flatten(1)
            count = torch.full((len(values),), float(values.shape[1]), dtype=torch.float64)
            sums.setdefault(name, []).append((count, values.sum(1), (values**2).sum(1)))

        return hear

    norms = [(name, part) for name, part in model.named_modules() if isinstance(part, _BatchNorm)]
    hooks = [part.register_forward_pre_hook(listener(name)) for name, part in norms]
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()


def _norms(model: nn.Module, file: ModelFile) -> dict[str, str]:
    """Names of convolutions by which a BatchNorm follows, seen by what is handed on while the model answers once."""
    given: dict[int, str] = {}
    kept: list[torch.Tensor] = []
    pairs: dict[str, str] = {}

    def gave(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def note(module: nn.Module, arrived: Any, answer: torch.Tensor) -> None:
            given[id(answer)] = name
            kept.append(answer)  # while it lives, no other tensor has its id

        return note

    def took(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def note(module: nn.Module, arrived: tuple[torch.Tensor, ...]) -> None:
            if id(arrived[0]) in given:
                pairs[given[id(arrived[0])]] = name

        return note

    hooks = []
    for name, part in model.named_modules():
        if isinstance(part, _BatchNorm):
            hooks.append(part.register_forward_pre_hook(took(name)))
        elif isinstance(part, nn.modules.conv._ConvNd):
            hooks.append(part.register_forward_hook(gave(name)))
    try:
        with TorchSession(model, file.spec) as session:
            sides = file.golden.tile if file.golden else tuple(2 * d for d in file.spec.divisor)
            session.run(np.zeros((1, len(file.spec.channels), *sides), np.float32))
    except RuntimeError as error:
        raise ModelError(f"{file.path}: its input does not fit this network ({str(error).splitlines()[0]}).") from error
    finally:
        for hook in hooks:
            hook.remove()
    return pairs
