"""Several devices as one session: each caller gets the one that is free first."""

from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cellengine.engine.session import Halo, Outputs, Session


class SessionPool:
    """Sessions of one model in one precision, fed from one queue. Faster devices are asked more often."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        first = sessions[0]
        self.spec, self.backend, self.precision = first.spec, first.backend, first.precision
        self.device = ",".join(session.device for session in sessions)
        self.devices = len(sessions)
        self.concurrency = sum(session.concurrency for session in sessions)
        self._sessions = list(sessions)
        self._free: SimpleQueue[Session] = SimpleQueue()
        for turn in range(max(session.concurrency for session in sessions)):
            for session in sessions:
                if turn < session.concurrency:
                    self._free.put(session)

    def run(self, batch: NDArray[np.float32], halo: Halo | None = None) -> Outputs:
        """See `Session.run`. The bits are those of the device that answers: the same for devices of one kind."""
        session = self._free.get()
        try:
            return session.run(batch, halo)
        finally:
            self._free.put(session)

    def describe(self) -> dict[str, Any]:
        """See `Session.describe`: that of the first, and every device."""
        every = [session.describe() for session in self._sessions]
        return {**every[0], "device": self.device, "devices": every}

    def close(self) -> None:
        """Close every session."""
        for session in self._sessions:
            session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
