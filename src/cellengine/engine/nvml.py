"""Memory of NVIDIA devices as the driver's management library counts it: per process, and free in all."""

from __future__ import annotations

import os
from contextlib import suppress

from cellengine.engine.backends.cuda import bus_id
from cellengine.errors import DeviceError

try:
    import pynvml
except ImportError:
    pynvml = None

INSTALL = "pip install nvidia-ml-py"


class DeviceWatch:
    """What this process holds on one device. Where the library or the driver is missing, everything is None."""

    def __init__(self, number: int) -> None:
        self._handle = None
        if pynvml is not None:
            with suppress(pynvml.NVMLError, DeviceError):
                pynvml.nvmlInit()
                # CUDA counts devices in another order, and only those that CUDA_VISIBLE_DEVICES names
                self._handle = pynvml.nvmlDeviceGetHandleByPciBusId(bus_id(number))

    def held_bytes(self) -> int | None:
        """Bytes that this process holds on the device; None when it cannot be known.

        That is so where the driver knows it under another number (containers) or does not count by process (Windows).
        """
        if self._handle is None:
            return None
        with suppress(pynvml.NVMLError):
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(self._handle):
                if process.pid == os.getpid() and process.usedGpuMemory is not None:
                    return int(process.usedGpuMemory)
        return None

    def free_bytes(self) -> int | None:
        """Bytes that nobody holds on the device; None when it cannot be known."""
        if self._handle is None:
            return None
        with suppress(pynvml.NVMLError):
            return int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).free)
        return None
