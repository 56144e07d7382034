"""Several devices share one queue: two sessions on the CPU stand for two GPUs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cellengine.engine.backends import BACKENDS, open_session
from cellengine.engine.backends.hardware import cuda_devices
from cellengine.engine.backends.pool import SessionPool
from cellengine.engine.model_file import read_model_file
from cellengine.errors import DeviceError, UsageError
from tests.engine.test_sessions import pictures


@pytest.fixture
def pool(small_model: Any) -> Iterator[SessionPool]:
    file = read_model_file(small_model.path)
    with SessionPool([BACKENDS["onnxruntime"]().open(file, "cpu", "fp32", 1) for _ in range(2)]) as pool:
        yield pool


def test_answers_are_those_of_one_session(pool: SessionPool, small_model: Any) -> None:
    batches = [pictures((1, 64, 32 + 32 * (i % 3)), seed=i) for i in range(12)]
    with BACKENDS["onnxruntime"]().open(read_model_file(small_model.path), "cpu", "fp32", 1) as alone:
        expected = [alone.run(batch) for batch in batches]
        assert pool.concurrency == 2 * alone.concurrency
    with ThreadPoolExecutor(6) as callers:
        for one, other in zip(expected, callers.map(pool.run, batches), strict=True):
            assert all((one[name] == other[name]).all() for name in one)
    assert (pool.device, pool.backend, pool.precision) == ("cpu,cpu", "onnxruntime", "fp32")
    assert len(pool.describe()["devices"]) == 2


def test_no_device_waits_while_another_is_busy(pool: SessionPool) -> None:
    """Both sessions are inside at once, or the barrier breaks."""
    barrier = threading.Barrier(2, timeout=60)
    for session in pool._sessions:
        real = session.run

        def run(batch: np.ndarray, halo: Any = None, real: Any = real) -> Any:
            barrier.wait()
            return real(batch, halo)

        session.run = run  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as callers:
        list(callers.map(pool.run, [pictures((1, 64, 64))] * 2))


def test_closed_is_closed(pool: SessionPool) -> None:
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        pool.run(pictures((1, 64, 64)))


def test_lists_of_devices(small_model: Any) -> None:
    with pytest.raises(UsageError, match="Unknown device tpu"):
        open_session(small_model.path, device="cpu,tpu")
    if not cuda_devices():
        with pytest.raises(DeviceError):
            open_session(small_model.path, device="cuda:0,cuda:1", precision="fp32")
        with open_session(small_model.path, device="all", backend="onnxruntime", precision="fp32") as session:
            assert session.device == "cpu"
