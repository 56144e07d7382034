"""Batches of a run in the order of their numbers, made by threads between two steps or by processes beside them."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from torch.utils.data import DataLoader, Dataset, default_collate

from cellengine.ops.threads import worker_count
from cellengine.train.config import TrainConfig
from cellengine.train.place import Place
from cellengine.train.recipe import Batch, Samples

WORTH_THREADS_S = 0.001
"""a sample that takes longer; of shorter ones too much is Python, which one thread runs at a time"""
STEPS_AHEAD = 8
"""or parts of steps, for which short samples are made in one go: after a step, Python has to warm up again"""


def feed(samples: Samples, first_step: int, config: TrainConfig, place: Place) -> Generator[Batch, None, None]:
    """This process's share of every batch from `first_step` to the end of the run, each in `accumulate` parts.

    Close it when training ends before.
    """
    part = config.batch // (config.accumulate * place.world)
    numbers = _order(first_step, part, config, place)
    workers = place.loaders() if config.data.workers is None else config.data.workers
    yield from _by_processes(samples, numbers, part, workers, place) if workers else _by_threads(samples, numbers, part)


def _by_threads(samples: Samples, numbers: Iterator[int], part: int) -> Generator[Batch, None, None]:
    """Made when asked for, by as many threads as there are processors; by this one where that is faster.

    For networks on the processor: it is theirs during a step. Processes beside them take their threads' turns, and
    those that are not displaced wait for the others after every layer, so that a step takes longer by more than the
    samples.
    """
    seconds: list[float] = []  # of batches made here; the first one loads compiled functions, the second counts
    with ThreadPoolExecutor(worker_count()) as threads:
        while True:
            short = len(seconds) > 1 and seconds[1] < part * WORTH_THREADS_S
            chosen = list(islice(numbers, part * (STEPS_AHEAD if short else 1)))
            if not chosen:
                return
            if short or len(seconds) < 2:
                begun = time.perf_counter()
                made = samples.batch(chosen)
                seconds.append(time.perf_counter() - begun)
            else:
                made = tuple(default_collate(list(threads.map(samples.__getitem__, chosen))))
            for start in range(0, len(chosen), part):
                yield tuple(tensor[start : start + part] for tensor in made)


def _by_processes(
    samples: Samples, numbers: Iterator[int], part: int, workers: int, place: Place
) -> Generator[Batch, None, None]:
    """Made ahead by `workers` processes, the same ones in all epochs: to start them takes as long as many steps."""
    loader = DataLoader(
        _Batches(samples),
        batch_size=None,
        sampler=_parts(numbers, part),
        num_workers=workers,
        prefetch_factor=4,
        pin_memory=place.device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_loop,
    )
    for batch in loader:
        yield tuple(batch)


class _Batches(Dataset[Batch]):
    """Whole batches as items, by the numbers of their samples."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, numbers: list[int]) -> Batch:
        return self.samples.batch(numbers)


def _parts(numbers: Iterator[int], part: int) -> Iterator[list[int]]:
    while chosen := list(islice(numbers, part)):
        yield chosen


def _order(first_step: int, part: int, config: TrainConfig, place: Place) -> Iterator[int]:
    """Numbers of samples; what an epoch has beyond its last whole batch is left out."""
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
