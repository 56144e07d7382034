"""Bounded flight: order, bound, the first error, and signals."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from cellengine.engine.flow import Stop, overlap, stop_on_signals
from cellengine.errors import Interrupted


def test_results_come_in_order_whatever_finishes_first() -> None:
    def slow_first(i: int) -> int:
        time.sleep(0.02 if i % 3 == 0 else 0)
        return i

    assert list(overlap(slow_first, range(20), 3, Stop())) == list(range(20))


def test_work_in_flight_is_bounded() -> None:
    lock, begun, taken, most = threading.Lock(), [0], [0], [0]

    def work(i: int) -> int:
        with lock:
            begun[0] += 1
            most[0] = max(most[0], begun[0] - taken[0])
        return i

    for _ in overlap(work, range(50), 2, Stop(), ahead=1):
        with lock:
            taken[0] += 1
    assert most[0] <= 3 + 1  # one more may begin between a result and its being counted here


def test_the_first_error_ends_the_work() -> None:
    begun = []

    def work(i: int) -> int:
        begun.append(i)
        if i == 3:
            raise ValueError("tile 3 is bad")
        return i

    with pytest.raises(ValueError, match="tile 3 is bad"):
        list(overlap(work, range(1000), 2, Stop()))
    assert len(begun) < 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_is_in_hand_and_begins_nothing_new(number: signal.Signals) -> None:
    finished = []

    def work(i: int) -> int:
        if i == 5:
            os.kill(os.getpid(), number)
        time.sleep(0.005)
        finished.append(i)
        return i

    with stop_on_signals() as stop, pytest.raises(Interrupted) as caught:
        list(overlap(work, range(1000), 2, stop))
    assert caught.value.signal_number == number
    assert 5 in finished
    assert len(finished) < 20


def test_signal_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
