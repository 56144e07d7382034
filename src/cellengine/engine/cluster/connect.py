"""Workers of dask: those behind the address of a scheduler, or some of this machine. The only file that imports dask.

https://distributed.dask.org
"""

from __future__ import annotations

import logging
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

from cellengine.engine.environment import deciding_versions
from cellengine.engine.journal import differences
from cellengine.errors import DeviceError, ResourceError, UsageError, missing_package
from cellengine.ops.threads import THREADS_VARIABLE

try:
    import dask
    from distributed import CancelledError, Client, KilledWorker, LocalCluster, WorkerPlugin
    from distributed.comm.core import CommClosedError
except ImportError as error:
    raise missing_package("dask", "--dask", "pip install 'cellengine[dask]'") from error

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")

LOCAL = "local:"
CONNECT_S = 20
"""how long a scheduler has to answer"""
SETTINGS = {
    "distributed.admin.large-graph-warning-threshold": "1GB",  # a batch for the network may be large
    "distributed.scheduler.http.routes": [],  # of a local scheduler: no pages
    "distributed.worker.http.routes": [],
}
LOOK_EVERY_S = 5
PATIENCE_S = 120
"""how long a run waits for workers when all of them have gone: a scheduler of jobs may start others"""
WORKERS_S = 120
"""how long the first worker has to join"""


class Cluster:
    """Workers that call functions, each as many at a time as it has threads. Any thread may ask."""

    def __init__(self, client: Client, name: str) -> None:
        self._client, self._name = client, name
        self.is_local = name.startswith(LOCAL)
        """whether the workers share the memory of this machine"""

    def places(self) -> int:
        """Functions that the workers call at a time, now. Raises ResourceError when the scheduler has gone."""
        try:
            return sum(self._client.nthreads().values())
        except OSError as error:
            raise self._lost() from error

    def call(
        self, function: Callable[Arguments, Value], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Value:
        """`function(...)` on some worker; waits for the answer. One that dies is replaced by another.

        Raises what the function raises, ResourceError when no worker can be had or the function kills them.
        """
        answer: Value = self._wait(self._client.submit(function, *arguments, **named, pure=False))
        return answer

    def call_first(
        self, function: Callable[Arguments, Value], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Value:
        """As `call`, before all that waits."""
        answer: Value = self._wait(self._client.submit(function, *arguments, **named, pure=False, priority=1))
        return answer

    def call_each(self, function: Callable[..., Value], *arguments: Any) -> dict[str, Value | Exception]:
        """`function(...)` on every worker there is now: address -> answer, or the error it raised."""
        answers: dict[str, Value | Exception] = self._client.run(function, *arguments, on_error="return")
        return answers

    def _wait(self, future: Any) -> Any:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        alone_since: float | None = None
        try:
            # not result(timeout): threads fetch answers together, and where one gives up dask fails them all
            while not done.wait(LOOK_EVERY_S):
                now = time.monotonic()
                alone_since = None if self.places() else alone_since or now
                if alone_since is not None and now - alone_since > PATIENCE_S:
                    raise ResourceError(
                        f"--dask {self._name}: all workers have gone. Start them again and run the same command: it "
                        "goes on from here."
                    )
            if future.cancelled():
                raise self._lost()
            return future.result()
        except KilledWorker as error:
            raise ResourceError(
                f"--dask {self._name}: one piece of work has ended several workers, most likely for lack of memory: "
                "give them more, or plan with less by --max-ram, and run the same command again."
            ) from error
        except (CancelledError, CommClosedError) as error:
            raise self._lost() from error
        finally:
            future.release()

    def _lost(self) -> ResourceError:
        return ResourceError(
            f"--dask {self._name}: the scheduler has gone. Start it again and run the same command: it goes on from "
            "here."
        )


def parse_workers(text: str) -> int | str:
    """`local:N` as N, an address as it is. Raises UsageError."""
    count = text.removeprefix(LOCAL)
    if not text.startswith(LOCAL):
        return text
    if not count.isdigit() or int(count) < 1:
        raise UsageError(f"--dask {text!r}: expected local:N with a number of processes, e.g. local:2, or an address.")
    return int(count)


@contextmanager
def open_cluster(name: str, workers_s: float = WORKERS_S) -> Iterator[Cluster]:
    """The workers that `name` stands for: `local:N` starts N processes of one thread, an address asks a scheduler.

    `workers_s`: how long the first worker has to join. What listens on a port of this machine listens on the loopback
    interface, and there is no dashboard. Raises DeviceError when nothing answers, nobody works there, or a worker has
    other versions.
    """
    where = parse_workers(name)
    with ExitStack() as opened:
        opened.enter_context(dask.config.set(SETTINGS))
        try:
            address = opened.enter_context(_local(where)) if isinstance(where, int) else where
            client = opened.enter_context(Client(address, timeout=CONNECT_S, set_as_default=False))
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            raise DeviceError(
                f"--dask {name}: nothing answers there ({_first_line(error)}): start `dask scheduler` and give the "
                "address that it prints, e.g. tcp://host:8786, or take local:N."
            ) from error
        if isinstance(where, int):
            client.register_plugin(_LeaveSignals())
        try:
            client.wait_for_workers(1, timeout=workers_s)
        except TimeoutError as error:
            raise DeviceError(
                f"--dask {name}: the scheduler has no workers: start some with `dask worker {name}`, on machines that "
                "see the inputs and the output."
            ) from error
        cluster = Cluster(client, name)
        _check_versions(cluster, name)
        yield cluster


@contextmanager
def _local(count: int) -> Iterator[Any]:
    """The cluster of `count` processes of one thread each, in all that they compute."""
    with (
        tempfile.TemporaryDirectory(prefix="cellengine-") as folder,
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # what is left of it must not take a known port
            silence_logs=logging.ERROR,
            memory_limit=0,  # the plan sees to it; a worker that is paused or killed would not be faster
            local_directory=folder,
            env={THREADS_VARIABLE: "1", "OMP_NUM_THREADS": "1"},
        ) as cluster,
    ):
        yield cluster


class _LeaveSignals(WorkerPlugin):
    """Ctrl-C reaches every process of a terminal, a scheduler's SIGTERM those of a job: the run decides when to end."""

    name = "cellengine-signals"

    def setup(self, worker: object) -> None:
        """Called in each worker as it starts."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)


def _check_versions(cluster: Cluster, name: str) -> None:
    """Refuse workers that would find something else."""
    here = deciding_versions()

    def there(packages: Sequence[str]) -> dict[str, str | None]:
        # travels as it is: cellengine may be missing or another one
        from importlib.metadata import PackageNotFoundError, version

        found: dict[str, str | None] = {}
        for package in packages:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = None
        return found

    for address, answer in cluster.call_each(there, list(here)).items():
        if isinstance(answer, Exception):
            raise DeviceError(f"--dask {name}: the worker {address} fails ({_first_line(answer)}): see its log.")
        if differing := differences(answer, here):
            raise DeviceError(
                f"--dask {name}: the worker {address} has other versions ({differing.replace(' then', ' there')}): "
                "install the same on all machines."
            )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
