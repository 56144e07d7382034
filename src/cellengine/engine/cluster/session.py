"""The model on the workers as one session: what it is asked goes to a worker that is free."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cellengine.engine.cluster.connect import Cluster
from cellengine.engine.cluster.tasks import ModelName, describe_here, describe_model, run_batch
from cellengine.engine.session import Halo, Outputs, check_batch
from cellengine.spec import ModelSpec


class ClusterSession:
    """A model in one precision on every worker of a cluster. It is asked by those who have the arrays at hand.

    Work on tiles and blocks does not pass through here: workers read and write by path, see `crew`.
    """

    def __init__(self, cluster: Cluster, name: ModelName, spec: ModelSpec) -> None:
        """`spec` is what the model's file says. What `name` leaves open is decided on a machine that will work."""
        # workers of this machine have a processor each: the choice is that of a run without them
        found = describe_here(name) if cluster.is_local else cluster.call(describe_model, name)
        self.spec, self._cluster = spec, cluster
        self.backend, self.device, self.precision = found["backend"], found["device"], found["precision"]
        self.name = replace(name, backend=self.backend, device=self.device, precision=self.precision)
        self.devices = 2 * cluster.places()
        """each worker has one batch in work and one at hand"""
        self.concurrency = found["concurrency"] * self.devices
        self._described: dict[str, Any] = found["described"]

    def run(self, batch: NDArray[np.float32], halo: Halo | None = None) -> Outputs:
        """See `Session.run`. The bits are those of the worker that answers: the same for machines of one kind."""
        return self._cluster.call(run_batch, self.name, check_batch(batch, self.spec, halo), halo)

    def describe(self) -> dict[str, Any]:
        """See `Session.describe`: that of one worker, and how many places the workers have."""
        return {**self._described, "workers": self._cluster.places()}

    def close(self) -> None:
        """Nothing is held here: the workers keep the model until they end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
