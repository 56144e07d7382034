"""Memory that was freed and that the C library keeps for itself: giving it back to the system."""

from __future__ import annotations

import ctypes
import sys
import time


def release_free_memory() -> None:
    """Give memory that this process has freed back to the system, where the C library keeps it for itself (glibc)."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


class SpareMemory:
    """Gives freed memory back now and then in a run that goes on for long.

    Every thread has a heap of its own, which holds on to what large arrays leave behind: after some hundred blocks that
    is as much again as what is in use, however well the arrays themselves are planned.
    """

    EVERY_S = 0.5
    """a return takes milliseconds, and pages that are needed again come back zeroed"""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def release(self) -> None:
        """Give it back, unless that was done just now."""
        if time.monotonic() - self._last >= self.EVERY_S:
            release_free_memory()
            self._last = time.monotonic()
