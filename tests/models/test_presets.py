"""The networks of the presets: each is as large as its paper's or as its file says, and takes pictures of odd sizes.

On the device `meta` nothing is computed, so that 134 M weights cost nothing.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from cellengine.models import build
from cellengine.train.config import load_config, presets

MILLIONS = {
    "nuclei-unet-full": 31.0,
    "nuclei-unet-mini": 0.24,
    "nuclei-unet": 1.8,
    "cells3d-unet": 22.6,
    "livedead-vgg": 8.7,
    "wbc-fcn8s": 1.1,
    "wbc-fcn8s-full": 134.3,
    "wbc-fcn16s-full": 134.3,
    "wbc-fcn32s-full": 134.3,
}
"""weights of each, in millions"""
VOXELS = sorted(name for name in presets() if "maskrcnn" not in name)
"""a detector answers with a list, and is looked at elsewhere"""


@pytest.mark.parametrize("name", VOXELS)
def test_it_takes_pictures_of_odd_sizes(name: str) -> None:
    config = load_config(name)
    model = config.model
    with torch.device("meta"):
        module = build(model).eval()
        sides = [d * f for d, f in zip(model.divisor, (3, 5, 1), strict=False)]
        if config.task == "classification":
            sides = [47, 53]
        answer = module(torch.empty(2, model.channels_in, *sides))
    for output in model.outputs:
        expected = [] if config.task == "classification" else sides
        assert answer[output.name].shape == (2, output.channels, *expected)


@pytest.mark.parametrize("name", MILLIONS)
def test_it_is_as_large_as_it_should_be(name: str) -> None:
    with torch.device("meta"):
        weights = sum(p.numel() for p in build(load_config(name).model).parameters())
    assert weights / 1e6 == pytest.approx(MILLIONS[name], rel=0.06)
