"""Rates, averages and gradients against their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from cellengine.train.config import TrainConfig, load_config
from cellengine.train.optimizer import AVERAGE_EVERY, Followed, clip_gradient, rate_of_step


def config(schedule: str, warmup_steps: int = 0) -> TrainConfig:
    """Ten epochs of twelve steps at a rate of 0.1."""
    plain = load_config("nuclei-unet")
    settings = replace(plain.optimizer, rate=0.1, schedule=schedule, warmup_steps=warmup_steps)  # type: ignore[arg-type]
    return replace(plain, epochs=10, optimizer=settings, data=replace(plain.data, samples_per_epoch=100))


def test_the_cosine_falls_to_a_hundredth() -> None:
    rates = [rate_of_step(step, 1.0, config("cosine")) for step in range(121)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[120] == pytest.approx(0.001)
    assert rates[60] == pytest.approx(0.001 + 0.099 / 2)
    assert rates[30] == pytest.approx(0.001 + 0.099 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates == sorted(rates, reverse=True)


def test_warm_up_rises_in_equal_steps_and_the_schedule_follows() -> None:
    settings = config("cosine", warmup_steps=4)
    assert [rate_of_step(s, 1.0, settings) for s in range(4)] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rate_of_step(4, 1.0, settings) == pytest.approx(0.1)


def test_the_plateau_factor_counts_where_there_is_no_cosine() -> None:
    assert rate_of_step(50, 0.25, config("plateau")) == pytest.approx(0.025)
    assert rate_of_step(50, 1.0, config("constant")) == pytest.approx(0.1)


def test_the_average_moves_by_its_decay_and_counters_are_copied() -> None:
    torch.manual_seed(0)
    model, average = (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(2))
    model.train()(torch.randn(5, 3))
    before = {name: value.clone() for name, value in average.state_dict().items()}
    Followed.of(model, average).move_average(step=1000, decay=0.9)
    for name, value in model.state_dict().items():
        found = average.state_dict()[name]
        if value.is_floating_point():
            kept = 0.9**AVERAGE_EVERY
            torch.testing.assert_close(found, kept * before[name] + (1 - kept) * value)
        else:
            assert torch.equal(found, value)
            assert int(found) == 1


@pytest.mark.parametrize(("step", "decay", "expected"), [(0, 0.998, 0.1), (90, 0.998, 0.91), (10**6, 0.998, 0.998)])
def test_the_average_forgets_the_start_faster(step: int, decay: float, expected: float) -> None:
    model, average = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
        average.weight.fill_(1.0)
    Followed.of(model, average).move_average(step, decay)
    assert float(average.weight) == pytest.approx(expected**AVERAGE_EVERY, rel=1e-3)


def test_without_decay_the_average_is_the_model() -> None:
    model, average = nn.Linear(2, 2), nn.Linear(2, 2)
    Followed.of(model, average).move_average(5, 0.0)
    torch.testing.assert_close(average.weight, model.weight)


def test_a_long_gradient_is_shortened_and_a_short_one_is_not() -> None:
    model = nn.Linear(2, 1)
    for length, expected in ((10.0, 1.0), (0.5, 0.5)):
        model.weight.grad = torch.tensor([[length, 0.0]])
        model.bias.grad = torch.zeros(1)
        clip_gradient(list(model.parameters()), 1.0)
        assert float(model.weight.grad.norm()) == pytest.approx(expected, rel=1e-4)
