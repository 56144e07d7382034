"""Activations that are computed again: the same gradients, the same statistics, less kept."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from cellengine.models import UNet, UNetConfig


def test_gradients_and_statistics_are_those_without() -> None:
    torch.manual_seed(0)
    plain = UNet(UNetConfig(dims=3, channels_in=1, widths=(4, 6), heads=("foreground",))).train()
    frugal = UNet(plain.config).train()
    frugal.load_state_dict(plain.state_dict())
    frugal.checkpointing = True
    image = torch.randn(2, 1, 4, 6, 8)
    for module in (plain, frugal):
        module.logits(image)["foreground"].square().sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), frugal.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), (_, b) in zip(plain.named_buffers(), frugal.named_buffers(), strict=True):
        assert torch.equal(a, b), name
