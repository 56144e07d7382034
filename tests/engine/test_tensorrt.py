"""TensorRT without a GPU: what must hold before a driver is there, and that TensorRT-RTX builds our graphs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from cellengine.engine.backends import open_session
from cellengine.engine.backends.cuda import DeviceMemory, load_driver
from cellengine.engine.backends.hardware import cuda_devices
from cellengine.engine.backends.tensorrt import build_plan, load_library, read_plan, write_plan
from cellengine.engine.model_file import read_model_file
from cellengine.errors import DeviceError, ModelError
from cellengine.zoo import bundled


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="builds engines without a GPU: pip install tensorrt-rtx")


@pytest.mark.skipif(installed("tensorrt") or installed("tensorrt_rtx"), reason="a TensorRT is installed")
def test_missing_library_is_explained(write_tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"run `pip install 'cellengine\[tensorrt\]'`"):
        load_library()
    with pytest.raises(DeviceError, match=r"needs the package tensorrt"):
        open_session(write_tiny_model(tmp_path / "tiny.onnx"), backend="tensorrt")


@pytest.mark.skipif(cuda_devices() > 0, reason="this machine has an NVIDIA device")
def test_without_a_device_nothing_of_the_library_is_started(
    library: Any, write_tiny_model: Any, tmp_path: Path
) -> None:
    with pytest.raises(DeviceError, match="NVIDIA devices only, and the driver offers 0"):
        open_session(write_tiny_model(tmp_path / "tiny.onnx"), backend="tensorrt", device="cuda:0")


def test_a_plan_that_changed_on_disk_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "a.plan"
    assert read_plan(path) is None
    write_plan(path, b"an engine" * 100)
    assert read_plan(path) == b"an engine" * 100
    content = bytearray(path.read_bytes())
    for at in (0, 31, 32, 500, len(content) - 1):
        damaged = bytearray(content)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        assert read_plan(path) is None
    path.write_bytes(content[:-3])
    assert read_plan(path) is None


def test_a_small_model_builds_ahead_of_time(library: Any, small_model: Any, tmp_path: Path) -> None:
    file = read_model_file(small_model.path)
    timing = tmp_path / "timing.cache"
    plan = build_plan(library, file.content, file.spec, timing=timing, capability="SM86")
    assert len(plan) > 10_000
    with pytest.raises(ModelError, match="cannot parse it"):
        build_plan(library, file.content[: len(file.content) // 2], file.spec, capability="SM86")


@pytest.mark.parametrize("name", sorted(bundled()))
def test_every_bundled_model_builds_ahead_of_time(library: Any, name: str) -> None:
    file = read_model_file(bundled()[name])
    assert build_plan(library, file.content, file.spec, capability="SM89")


class Device:
    """Counts what is given out and taken back, as the driver would."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.next = 256

    def allocate(self, size: int) -> int:
        self.next += 256
        self.held[self.next] = size
        return self.next

    def free(self, address: int) -> None:
        del self.held[address]

    free_pinned = free


def test_device_memory_stays_under_its_limit() -> None:
    device = Device()
    memory = DeviceMemory(device, 1000)  # type: ignore[arg-type]
    first = memory.buffer("image", 400)
    assert memory.buffer("image", 300) == first
    memory.buffer("scratch", 500)
    with pytest.raises(MemoryError, match="--max-vram"):
        memory.buffer("image", 600)
    assert sum(device.held.values()) == memory.held == 900
    memory.buffer("image", 500)
    assert sum(device.held.values()) == memory.held == 1000
    memory.release()
    assert device.held == {}


@pytest.mark.skipif(cuda_devices() > 0, reason="this machine has an NVIDIA device")
def test_no_driver_is_said() -> None:
    with pytest.raises(DeviceError, match="No NVIDIA driver"):
        load_driver()
