"""Batches come in the order of their numbers, whoever works on them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from cellengine.train.config import TrainConfig, load_config
from cellengine.train.feed import STEPS_AHEAD, feed
from cellengine.train.place import Place
from cellengine.train.recipe import Batch, Samples


class Numbers(Samples):
    """Sample i is the number i."""

    def __getitem__(self, index: int) -> Batch:
        return (torch.tensor(index),)


class Quick(Numbers):
    """Made in one go, and it can be told that they were."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def batch(self, numbers: Sequence[int]) -> Batch:
        self.asked.append(len(numbers))
        return (torch.tensor(numbers),)


class Slow(Numbers):
    """Worth a thread each."""

    def __getitem__(self, index: int) -> Batch:
        time.sleep(0.003)
        return super().__getitem__(index)


def config(**changes: object) -> TrainConfig:
    data = replace(load_config("nuclei-unet").data, samples_per_epoch=14, workers=0)
    return replace(load_config("nuclei-unet"), epochs=3, data=data, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("workers", "samples"), [(0, Numbers()), (0, Quick()), (0, Slow()), (1, Numbers())])
@pytest.mark.parametrize("first_step", [0, 1, 5])
def test_batches_go_through_the_epochs(workers: int, samples: Samples, first_step: int) -> None:
    settings = config(batch=4)
    settings = replace(settings, data=replace(settings.data, workers=workers))
    found = [part[0].tolist() for part in feed(samples, first_step, settings, Place(torch.device("cpu")))]
    # 14 samples make three whole batches an epoch; the last two are left out
    expected = [[14 * e + 4 * s + i for i in range(4)] for e in range(3) for s in range(3)]
    assert found == expected[first_step:]


def test_short_samples_are_made_for_several_steps_at_a_time() -> None:
    samples = Quick()
    settings = config(batch=4)
    settings = replace(settings, data=replace(settings.data, samples_per_epoch=40))
    assert len(list(feed(samples, 0, settings, Place(torch.device("cpu"))))) == 30
    assert samples.asked == [4, 4, *[4 * STEPS_AHEAD] * 3, 4 * 4]


def test_processes_and_parts_share_every_batch() -> None:
    settings = config(batch=8, accumulate=2)
    shares = [list(feed(Numbers(), 0, settings, Place(torch.device("cpu"), rank, 2))) for rank in (0, 1)]
    for step in range(3):
        seen = [int(n) for share in shares for part in share[2 * step : 2 * step + 2] for n in part[0]]
        assert sorted(seen) == list(range(14 * step, 14 * step + 8))
    assert all(len(part[0]) == 2 for share in shares for part in share)


def test_closing_ends_the_workers() -> None:
    settings = config(batch=4)
    batches = feed(Numbers(), 0, replace(settings, data=replace(settings.data, workers=1)), Place(torch.device("cpu")))
    next(batches)
    batches.close()
    assert not torch.multiprocessing.active_children()
