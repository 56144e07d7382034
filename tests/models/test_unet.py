"""The U-Net: shapes, and a receptive field that is exact, because the halo of `--halo exact` rests on it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from cellengine.models import UNetConfig, build

CONFIGS = [
    UNetConfig(widths=(4, 6)),
    UNetConfig(widths=(4, 6, 8)),
    UNetConfig(widths=(4, 6, 8), convolutions=1),
    UNetConfig(dims=3, widths=(4, 6, 8), strides=((1, 2, 2), (2, 2, 2))),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.dims}d-{len(c.widths)}-{c.convolutions}")
def test_the_receptive_field_is_exact(config: UNetConfig) -> None:
    """Gradients reach exactly as far as the configuration says, at the worst position of the pooling grid."""
    torch.manual_seed(0)
    module = build(config).double().eval()
    for weights in module.parameters():  # positive, so that no ReLU hides what it depends on
        weights.data.abs_()
    reach, divisor = config.receptive_field, config.divisor
    sides = [2 * (-(-r // d) + 1) * d + d for r, d in zip(reach, divisor, strict=True)]
    middle = [(s // d // 2) * d for s, d in zip(sides, divisor, strict=True)]
    worst = [0] * config.dims
    for axis, cells in enumerate(divisor):
        for shift in range(cells):
            at = [m + (shift if i == axis else 0) for i, m in enumerate(middle)]
            image = torch.rand(1, config.channels_in, *sides, dtype=torch.double, requires_grad=True)
            output = module.logits(image)["distance"]
            output[(0, 0, *at)].backward()
            assert image.grad is not None
            used = (image.grad[0].abs().sum(0) > 0).nonzero()[:, axis]
            worst[axis] = max(worst[axis], at[axis] - int(used.min()), int(used.max()) - at[axis])
    assert tuple(worst) == reach


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.dims}d-{len(c.widths)}-{c.convolutions}")
def test_shapes_and_range(config: UNetConfig) -> None:
    module = build(config).eval()
    sides = [3 * d for d in config.divisor]
    with torch.inference_mode():
        outputs = module(torch.randn(2, config.channels_in, *sides))
    assert list(outputs) == list(config.heads)
    for values in outputs.values():
        assert values.shape == (2, 1, *sides)
        assert 0 <= values.min() <= values.max() <= 1


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="dims is 4"):
        UNetConfig(dims=4)
    with pytest.raises(ValueError, match="do not fit 3 widths"):
        UNetConfig(widths=(4, 6, 8), strides=((2, 2),))
