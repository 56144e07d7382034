"""Threads over compiled kernels that release the interpreter lock. How many, and how to run them; nothing else.

numba's own parallel loops are avoided: they triple the time of compilation, and one of their threading layers aborts
the process when two Python threads enter it at once, which an engine with several labelling threads would do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


THREADS_VARIABLE = "CELLENGINE_THREADS"
"""environment variable with the most threads that one process may compute with"""


def worker_count(workers: int | None = None) -> int:
    """`workers` when given (at least 1), else the number of processors this process may use.

    Those are the processors of its affinity mask, at most as many as the variable `CELLENGINE_THREADS` says.
    """
    if workers is not None:
        return max(1, workers)
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = os.environ.get(THREADS_VARIABLE, "")
    return max(1, min(count, int(most))) if most.isdigit() else count


def run_threads(function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None) -> list[Result]:
    """`[function(item) for item in items]`, in order, on `workers` threads; the first error is raised."""
    todo = list(items)
    threads = min(worker_count(workers), len(todo))
    if threads <= 1:
        return [function(item) for item in todo]
    with ThreadPoolExecutor(threads, thread_name_prefix="ops") as pool:
        return list(pool.map(function, todo))


def split_range(total: int, parts: int) -> list[tuple[int, int]]:
    """Cut 0 ... total into at most `parts` half-open ranges of nearly equal length; none is empty."""
    parts = max(1, min(parts, total))
    edges = [total * part // parts for part in range(parts + 1)]
    return [(a, b) for a, b in pairwise(edges) if a < b]
