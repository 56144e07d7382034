"""The mean of two models of one network: a fine-tuned model keeps what it knew, and often gains on both sides.

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models". It works for weights that come from each other, such as
those of a training that started with `--init`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cellengine.engine.model_file import read_model_file
from cellengine.errors import ModelError

_PREFIX = "module."
Layer = tuple[torch.Tensor, torch.Tensor]
"""weights and biases of a convolution, with the BatchNorm behind it folded in"""


@torch.no_grad()
def average_with(module: nn.Module, path: Path, share: float) -> None:
    """Move the weights of `module` towards those of the exported model `path`, by `share` of the way, in place.

    Both are taken as exported: with every BatchNorm folded into the convolution before it. Raises ModelError when they
    are not of one network.
    """
    other = _exported_layers(path)
    own = {name: part for name, part in module.named_modules() if isinstance(part, _ConvNd)}
    norms = dict(_norms(module))
    if len(norms) != sum(isinstance(part, _BatchNorm) for part in module.modules()):
        raise ModelError(
            "The mean of two models needs a convolution right before every BatchNorm; this network has not."
        )
    shapes = {name: tuple(part.weight.shape) for name, part in own.items()}
    if shapes != {name: tuple(weights.shape) for name, (weights, _) in other.items()}:
        raise ModelError(f"{path}: another network than the one that was trained, so their mean means nothing.")
    for name, part in own.items():
        norm = norms.get(name)
        weights, biases = (a.lerp(b, share) for a, b in zip(_folded(part, norm), other[name], strict=True))
        part.weight.copy_(weights)
        if norm is None and part.bias is not None:
            part.bias.copy_(biases)
        elif norm is not None:
            _add_only(norm, biases if part.bias is None else biases - part.bias)


def _exported_layers(path: Path) -> dict[str, Layer]:
    proto = onnx.load_model_from_string(read_model_file(path).content)
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    found: dict[str, Layer] = {}
    for node in proto.graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in stored:
            weights = torch.from_numpy(numpy_helper.to_array(stored[node.input[1]]).copy())
            channels = weights.shape[0] if node.op_type == "Conv" else weights.shape[1]
            biases = torch.zeros(channels)
            if len(node.input) > 2:
                biases = torch.from_numpy(numpy_helper.to_array(stored[node.input[2]]).copy())
            found[node.input[1].removeprefix(_PREFIX).removesuffix(".weight")] = weights, biases
    return found


def _norms(module: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """Names of convolutions that a BatchNorm follows, with it."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Sequential):
            for (key, first), (_, second) in pairwise(part.named_children()):
                if isinstance(first, _ConvNd) and isinstance(second, _BatchNorm):
                    yield f"{name}.{key}" if name else key, second


def _folded(part: _ConvNd, norm: _BatchNorm | None) -> Layer:
    biases = torch.zeros(part.out_channels) if part.bias is None else part.bias
    if norm is None:
        return part.weight, biases
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    out = 1 if isinstance(part, _ConvTransposeNd) else 0
    shape = [-1 if axis == out else 1 for axis in range(part.weight.ndim)]
    return part.weight * scale.reshape(shape), norm.bias + (biases - norm.running_mean) * scale


def _add_only(norm: _BatchNorm, biases: torch.Tensor) -> None:
    """Make a BatchNorm, in evaluation, add `biases` and nothing else."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0)
    norm.weight.fill_((1.0 + norm.eps) ** 0.5)
    norm.bias.copy_(biases)
