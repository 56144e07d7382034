"""Where training runs: one device, or one process a device under torchrun, which add up their gradients."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import psutil
import torch
from torch import distributed

from cellengine.errors import DeviceError, UsageError
from cellengine.models.session import LAYOUTS
from cellengine.train.recipe import Batch

PATIENCE = timedelta(hours=4)
"""how long the other processes wait while the first one validates"""
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""numbers of settings in glibc's malloc.h"""


@dataclass(frozen=True, slots=True)
class Place:
    """The device of this process, and its number among those that train together."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process validates, reports and saves."""
        return self.rank == 0

    def bring(self, batch: Batch) -> Batch:
        """The batch on this device, pictures with channels last."""
        image, *rest = (part.to(self.device, non_blocking=True) for part in batch)
        if image.ndim - 2 in LAYOUTS:
            image = image.contiguous(memory_format=LAYOUTS[image.ndim - 2])
        return (image, *rest)

    def share(self, value: float) -> float:
        """The first process's value, in all of them."""
        if self.world == 1:
            return value
        holder = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(holder, 0)
        return float(holder)

    def memory_mb(self) -> dict[str, float]:
        """Most memory this process has held so far, and most device memory since the last call."""
        found = {"ram_peak_mb": _peak_ram() / 1e6}
        if self.device.type == "cuda":
            found["device_peak_mb"] = torch.cuda.max_memory_allocated(self.device) / 1e6
            torch.cuda.reset_peak_memory_stats(self.device)
        return found


@contextmanager
def open_place(device: str) -> Iterator[Place]:
    """The place that `device` names: auto, cpu, cuda or cuda:N; under torchrun each process takes its own.

    Raises DeviceError when there is no such device, UsageError for a name that is none.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Place(_device(device, 0))
        return
    rank = int(os.environ["RANK"])
    own = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Place(own, rank, world)
    finally:
        distributed.destroy_process_group()


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next: large arrays come from the system page by page, every time anew.

    That takes a fifth of a step on CPUs; the peak stays as it was. It is for a process that does nothing but train or
    export: all allocations of the process are concerned, from before and after. Other C libraries are left alone.
    """
    if sys.platform != "linux":
        return
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):
        allocator.mallopt(_MMAP_MAX, 0)
        allocator.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N.")
    if kind == "cuda":
        count = torch.cuda.device_count()
        if int(number) >= count:
            raise DeviceError(f"--device {name}: found {count} CUDA devices here; take cpu, or mend the driver.")
        torch.cuda.set_device(int(number))
    return torch.device(name)


def _peak_ram() -> float:
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset)
    import resource  # there is none on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)
