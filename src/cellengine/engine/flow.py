"""Work in bounded flight: threads overlap, the first error wins, a signal stops between items."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from cellengine.errors import Interrupted

Item = TypeVar("Item")
Value = TypeVar("Value")


class Stop:
    """Whether a signal asked the run to end. Work in hand is finished, nothing new is begun."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.signal_number is not None:
            raise Interrupted("Stopped; the same command goes on from here.", self.signal_number)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """While inside, SIGINT and SIGTERM set the Stop, a second SIGINT interrupts; off the main thread nothing."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        if stop.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal_number = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def overlap(
    function: Callable[[Item], Value], items: Iterable[Item], threads: int, stop: Stop, ahead: int = 0
) -> Generator[Value, None, None]:
    """`function(item)` for every item on `threads` threads, results in order.

    At most `threads + ahead` items are begun and not yet taken, so memory is bounded however many there are. The
    first error ends the iteration after the items in hand; so does a signal.
    """
    waiting: deque[Future[Value]] = deque()
    source = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="cellengine") as pool:
        try:
            for item in source:
                stop.check()
                waiting.append(pool.submit(function, item))
                if len(waiting) >= threads + ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
                stop.check()
        finally:
            for future in waiting:
                future.cancel()
