"""What this machine has: processors, memory and NVIDIA devices, as the operating system and the driver say."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache
from pathlib import Path

import psutil

from cellengine.ops.threads import worker_count


def cpu_count() -> int:
    """Processors this process may use: as `worker_count` says, at most what its control group grants."""
    count = worker_count()
    quota = _cgroup_processors()
    return count if quota is None else max(1, min(count, int(quota)))


def memory_limit() -> int:
    """Bytes of memory this process may use: that of the machine, at most what its control group grants."""
    total = int(psutil.virtual_memory().total)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return min(total, int(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):
            continue
    return total


@cache
def cpu_name() -> str:
    """The processor's own name, as the operating system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets as Linux names them (`avx512_bf16`, `amx_bf16`, ...); empty on other systems."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def exact_int8() -> bool:
    """Whether the processor adds products of 8-bit numbers in 32 bits, as int8 models assume.

    x86 without VNNI adds pairs of them in 16 bits, which overflow; ARM has no such instruction.
    """
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    return bool({"avx512_vnni", "avx_vnni"} & cpu_flags())


@cache
def cuda_devices() -> int:
    """NVIDIA devices the driver offers; 0 without a driver. Libraries that need one may crash when asked instead."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _cgroup_processors() -> float | None:
    """Processors granted by the control group (version 2, then 1); None when it sets no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        microseconds = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
        period_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return microseconds / period_us if microseconds > 0 else None
