"""Batches of a run in the order of their numbers, made by other processes while the network works."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator

from torch.utils.data import DataLoader, Dataset

from cellengine.train.config import TrainConfig
from cellengine.train.place import Place
from cellengine.train.recipe import Batch


def feed(samples: Dataset[Batch], first_step: int, config: TrainConfig, place: Place) -> Generator[Batch, None, None]:
    """This process's share of every batch from `first_step` to the end of the run, each in `accumulate` parts.

    One set of workers serves all epochs: to start them takes as long as many steps of a small network. Close it when
    training ends before.
    """
    workers = config.data.workers
    loader = DataLoader(
        samples,
        config.batch // (config.accumulate * place.world),
        sampler=_order(first_step, config, place),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=place.device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_loop,
    )
    for batch in loader:
        yield tuple(batch)


def _order(first_step: int, config: TrainConfig, place: Place) -> Iterator[int]:
    """Numbers of samples; what an epoch has beyond its last whole batch is left out."""
    part = config.batch // (config.accumulate * place.world)
    for step in range(first_step, config.epochs * config.steps_per_epoch):
        epoch, number = divmod(step, config.steps_per_epoch)
        first = epoch * config.data.samples_per_epoch + number * config.batch
        for piece in range(config.accumulate):
            start = first + (piece * place.world + place.rank) * part
            yield from range(start, start + part)


def _leave_signals_to_the_loop(worker: int) -> None:
    """Terminals and schedulers signal every process of a command; samples are still needed for the step in hand."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
