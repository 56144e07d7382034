"""Where training runs: one device, or one process a device under torchrun, which add up their gradients."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import psutil
import torch
from torch import distributed

from cellengine.engine.backends.hardware import cpu_flags
from cellengine.errors import DeviceError, UsageError
from cellengine.models.session import LAYOUTS
from cellengine.ops.threads import worker_count
from cellengine.train.recipe import Batch

Precision = Literal["fp32", "bf16", "fp16"]

MOST_LOADERS = 4
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

    def seed(self, number: int) -> None:
        """Make what is random from now on repeatable.

        torch.manual_seed keeps a traceback for every kind of device that is not in use, a millisecond each time.
        """
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)

    def share(self, value: float) -> float:
        """The first process's value, in all of them."""
        if self.world == 1:
            return value
        holder = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(holder, 0)
        return float(holder)

    def best_precision(self) -> Precision:
        """The fastest arithmetic of the device: bf16 pays on processors with AMX only.

        With AVX-512 alone, its steps took 1.2 to 1.6 times as long as those in fp32; on others nobody measured it.
        """
        if self.device.type == "cuda":
            generation = torch.cuda.get_device_capability(self.device)
            return "bf16" if generation >= (8, 0) else "fp16" if generation >= (7, 0) else "fp32"
        return "bf16" if "amx_bf16" in cpu_flags() else "fp32"

    def loaders(self) -> int:
        """Processes that should make samples beside the network: none where it needs the processor itself."""
        return min(MOST_LOADERS, max(1, worker_count() - 1)) if self.device.type == "cuda" else 0

    def forget_peaks(self) -> None:
        """Count the most memory from now on, where the system allows that."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def memory_mb(self) -> dict[str, float]:
        """Most memory that a step since `forget_peaks` has held, of this process and of its device."""
        found = {"ram_peak_mb": _peak_ram() / 1e6}
        if self.device.type == "cuda":
            found["device_peak_mb"] = torch.cuda.max_memory_allocated(self.device) / 1e6
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
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, the only system where a peak can be forgotten
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return 1024 * float(lines["VmHWM"].split()[0])
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset)
    import resource  # there is none on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)
