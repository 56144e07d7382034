"""Memory, copies and streams of an NVIDIA device through the driver that is installed with it; no CUDA toolkit.

A runtime that answers through raw pointers (TensorRT) needs no more. Every call is checked; exhausted memory raises
MemoryError, anything else DeviceError.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellengine.errors import DeviceError

OUT_OF_MEMORY = 2
"""CUDA_ERROR_OUT_OF_MEMORY"""


def load_driver() -> Any:
    """The driver's library. Raises DeviceError when it is not there."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise DeviceError("No NVIDIA driver was found: install one, or take --device cpu.") from error


def call_driver(driver: Any, function: str, *arguments: Any) -> None:
    """Call the driver. Raises MemoryError when the device has none left, DeviceError for any other failure."""
    code = getattr(driver, function)(*arguments)
    if code == OUT_OF_MEMORY:
        raise MemoryError(f"{function}: out of memory")
    if code != 0:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        reason = (text.value or b"unknown error").decode()
        raise DeviceError(f"The NVIDIA driver failed in {function} ({code}: {reason}); see nvidia-smi.")


def bus_id(number: int) -> str:
    """Where the device `cuda:number` is plugged in, e.g. `0000:65:00.0`: its name for other libraries. Takes none of
    its memory.

    Raises DeviceError when there is no such device.
    """
    driver = load_driver()
    call_driver(driver, "cuInit", 0)
    handle, name = ctypes.c_int(), ctypes.create_string_buffer(32)
    call_driver(driver, "cuDeviceGet", ctypes.byref(handle), number)
    call_driver(driver, "cuDeviceGetPCIBusId", name, len(name), handle)
    return name.value.decode()


class CudaDevice:
    """One device. Its context is the one that the CUDA runtime of other libraries shares."""

    def __init__(self, number: int) -> None:
        self._driver = load_driver()
        self.call("cuInit", 0)
        handle, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(handle), number)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        self._handle, self._context = handle, context
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, 256, handle)
        self.name = name.value.decode(errors="replace")
        self.capability = f"{self._attribute(75)}.{self._attribute(76)}"
        """compute capability, e.g. 8.6"""

    def call(self, function: str, *arguments: Any) -> None:
        """See `call_driver`."""
        call_driver(self._driver, function, *arguments)

    def enter(self) -> None:
        """Make this device the current one of the calling thread."""
        self.call("cuCtxSetCurrent", self._context)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device."""
        self.enter()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        """Address of `size` fresh bytes on the device."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        """Give device memory back."""
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def pinned(self, size: int) -> tuple[int, NDArray[np.uint8]]:
        """`size` bytes of host memory that the device copies from and to by itself: address and array."""
        address = ctypes.c_void_p()
        self.call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), 0)
        if address.value is None:
            raise MemoryError("cuMemHostAlloc gave nothing")
        block = (ctypes.c_uint8 * size).from_address(address.value)
        return address.value, np.ctypeslib.as_array(block)

    def free_pinned(self, address: int) -> None:
        """Give pinned host memory back; its array must not be used any more."""
        self.call("cuMemFreeHost", ctypes.c_void_p(address))

    def stream(self) -> int:
        """Handle of a new stream, which does not wait for others."""
        handle = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(handle), 1)
        return handle.value or 0

    def destroy_stream(self, stream: int) -> None:
        """End a stream."""
        self.call("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def to_device(self, address: int, host: int, size: int, stream: int) -> None:
        """Begin to copy pinned memory to the device."""
        self.call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(host),
            ctypes.c_size_t(size),
            ctypes.c_void_p(stream),
        )

    def to_host(self, host: int, address: int, size: int, stream: int) -> None:
        """Begin to copy device memory to pinned memory."""
        self.call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(host),
            ctypes.c_uint64(address),
            ctypes.c_size_t(size),
            ctypes.c_void_p(stream),
        )

    def wait(self, stream: int) -> None:
        """Return when everything begun on the stream is done."""
        self.call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def _attribute(self, which: int) -> int:
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), which, self._handle)
        return value.value


class DeviceMemory:
    """Buffers on a device and their pinned counterparts, grown as they are asked for, at most `limit` bytes."""

    def __init__(self, device: CudaDevice, limit: int | None) -> None:
        self._device, self._limit = device, limit
        self._buffers: dict[str, tuple[int, int]] = {}
        self._pinned: dict[str, tuple[int, NDArray[np.uint8]]] = {}

    @property
    def held(self) -> int:
        """Bytes held on the device."""
        return sum(size for _, size in self._buffers.values())

    def buffer(self, name: str, size: int) -> int:
        """Address of at least `size` bytes under `name`. Raises MemoryError beyond the limit."""
        address, have = self._buffers.get(name, (0, 0))
        if have >= size and address:
            return address
        if self._limit is not None and self.held - have + size > self._limit:
            raise MemoryError(f"out of memory: {size} bytes more than the {self._limit} that --max-vram allows")
        if address:
            del self._buffers[name]
            self._device.free(address)
        address = self._device.allocate(max(size, 1))
        self._buffers[name] = address, size
        return address

    def pinned(self, name: str, size: int) -> tuple[int, NDArray[np.uint8]]:
        """Pinned host memory of at least `size` bytes under `name`: address and array."""
        if name not in self._pinned or self._pinned[name][1].size < size:
            if name in self._pinned:
                self._device.free_pinned(self._pinned.pop(name)[0])
            self._pinned[name] = self._device.pinned(size)
        return self._pinned[name]

    def release(self) -> None:
        """Give everything back."""
        for address, _ in self._buffers.values():
            self._device.free(address)
        for address, _ in self._pinned.values():
            self._device.free_pinned(address)
        self._buffers.clear()
        self._pinned.clear()
