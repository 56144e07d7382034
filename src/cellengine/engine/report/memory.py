"""How much memory the process held in the course of a run: a few hundred points, however long it takes."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import psutil

FIRST_STEP_S = 0.25
MOST_POINTS = 240


class MemoryTrace:
    """Samples the resident memory while it is open; when there are too many points every second one is dropped."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []
        self._step_s = FIRST_STEP_S
        self._process = psutil.Process()
        self._begun = time.monotonic()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)

    @property
    def points(self) -> list[tuple[float, int]]:
        """Seconds since the beginning, and bytes."""
        return list(self._points)

    def _sample(self) -> None:
        while True:
            self._points.append((round(time.monotonic() - self._begun, 2), self._process.memory_info().rss))
            if len(self._points) >= MOST_POINTS:
                self._points = self._points[::2]
                self._step_s *= 2
            if self._ending.wait(self._step_s):
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
