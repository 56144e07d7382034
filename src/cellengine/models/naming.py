"""Names of parameters of torchvision's VGG, as the trunks here have them: blocks whose BatchNorm takes the biases."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch

from cellengine.models.detection.naming import EPSILON

BLOCKS_APART = (1, 2)
"""numbers between the blocks of a trunk: of the FCN, and of the VGG, which counts its poolings too"""
NORM = ("weight", "bias", "running_mean", "running_var")
HEAD = (("classifier.0", "head.0", 7), ("classifier.3", "head.3", 1))
"""fully connected layers, the convolutions of an FCN's head that they become, and the sides of their kernels"""

_CONVOLUTION = re.compile(r"features\.(\d+)\.weight")


def is_vgg(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether `state` is of torchvision's VGG, with or without BatchNorm, with or without its classifier."""
    first = state.get("features.0.weight")
    return first is not None and first.shape[2:] == (3, 3)


def lacks_norm(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether `state` is of a VGG without BatchNorm, so that nothing in it says what values are usual."""
    return is_vgg(state) and "features.1.running_mean" not in state


def vgg_names(state: Mapping[str, torch.Tensor], apart: int) -> dict[str, torch.Tensor]:
    """The parameters of a VGG (`is_vgg`) under the names of a trunk with its blocks `apart`, and of an FCN's head.

    Convolutions here have no bias: the mean that BatchNorm subtracts is smaller by it. Where there is no BatchNorm, one
    that only adds the bias takes its place. The fully connected layers become convolutions (Long et al. 2015).
    """
    named: dict[str, torch.Tensor] = {}
    for number, block, place in _convolutions(state):
        start = f"trunk.{block * apart}"
        named[f"{start}.{3 * place}.weight"] = state[f"features.{number}.weight"]
        norm = _norm(state, number)
        named |= {f"{start}.{3 * place + 1}.{kind}": value for kind, value in norm.items()}
    for layer, convolution, side in HEAD:
        weight, bias = state.get(f"{layer}.weight"), state.get(f"{layer}.bias")
        if weight is not None and bias is not None and weight.shape[1] % side**2 == 0:
            named[f"{convolution}.weight"] = weight.reshape(len(weight), -1, side, side)
            named[f"{convolution}.bias"] = bias
    return named


def _convolutions(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[int, int, int]]:
    """Number, block and place in the block of each convolution; a pooling leaves a gap between two numbers."""
    found = (_CONVOLUTION.fullmatch(name) for name, value in state.items() if value.ndim == 4)
    numbers = sorted(int(match[1]) for match in found if match)
    step = 2 if lacks_norm(state) else 3
    block = place = 0
    for before, number in zip(numbers[:1] + numbers, numbers, strict=False):
        if number - before > step:
            block, place = block + 1, 0
        yield number, block, place
        place += 1


def _norm(state: Mapping[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    """The BatchNorm behind convolution `number`, which has no bias of its own any more."""
    bias = state.get(f"features.{number}.bias", torch.zeros(len(state[f"features.{number}.weight"])))
    behind = f"features.{number + 1}"
    if f"{behind}.running_mean" in state:
        norm = {kind: state[f"{behind}.{kind}"] for kind in NORM if f"{behind}.{kind}" in state}
        return {**norm, "running_mean": norm["running_mean"] - bias}
    one = torch.ones_like(bias)
    return {"weight": one, "bias": bias, "running_mean": torch.zeros_like(bias), "running_var": (1 - EPSILON) * one}
