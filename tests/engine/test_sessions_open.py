"""`open_session` gives what was asked for or says why not; `auto` takes the fastest of what is verified."""

from __future__ import annotations

import builtins
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from cellengine.cli import main
from cellengine.engine.backends import BACKENDS, available, best_choice, cache_folder, hardware, open_session
from cellengine.engine.backends.choice import Choice, Timing
from cellengine.engine.backends.hardware import cpu_count, cuda_devices
from cellengine.engine.model_file import read_model_file
from cellengine.errors import DeviceError, ModelError, UsageError
from cellengine.spec import METADATA_KEY, Parity

Write = Callable[..., Path]
CPU_BACKENDS = ("onnxruntime", "openvino")
needs_bf16 = pytest.mark.skipif(
    "bf16" not in BACKENDS["openvino"]().precisions("cpu"), reason="this processor has no bf16 instructions"
)
needs_int8 = pytest.mark.skipif(not hardware.exact_int8(), reason="this processor has no VNNI instructions")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CELLENGINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path: Path, write_tiny_model: Write) -> Path:
    """A model that is verified in nothing but fp32."""
    return write_tiny_model(tmp_path / "tiny.onnx")


def parity(precision: str, backend: str, device: str = "cpu", passed: bool = True) -> Parity:
    return Parity(precision, backend, device, passed=passed, pictures=1, max_difference=0.0)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_by_name(tiny: Path, backend: str, cache: Path) -> None:
    with open_session(tiny, device="cpu", backend=backend, precision="fp32", threads=1) as session:
        assert (session.backend, session.device, session.precision) == (backend, "cpu", "fp32")
        assert session.describe()["threads"] == 1
    assert not cache.exists(), "nothing was left open, so nothing was to be timed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorflow"}, "Unknown backend tensorflow; known are auto, openvino, onnxruntime"),
        ({"precision": "fp8"}, "Unknown precision fp8; known are fp32, bf16, fp16, int8"),
        ({"device": "tpu"}, "Unknown device tpu; known are auto, cpu, cuda:0"),
    ],
)
def test_unknown_names(tiny: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_session(tiny, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "onnxruntime", "precision": "bf16"}, "computes in fp32, int8 on cpu, not in bf16"),
        (
            {"backend": "onnxruntime", "precision": "fp16", "device": "cpu"},
            "computes in fp32, int8 on cpu, not in fp16",
        ),
        ({"backend": "openvino", "device": "cuda:0"}, "runs on the cpu only"),
        pytest.param(
            {"precision": "int8"},
            r"tiny\.int8\.onnx is not beside the model.*export --precision int8",
            marks=needs_int8,
        ),
    ],
)
def test_what_is_not_available_is_refused(tiny: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        open_session(tiny, **options)


@pytest.mark.skipif(cuda_devices() > 0, reason="this machine has an NVIDIA device")
def test_cuda_without_a_device_is_refused(tiny: Path) -> None:
    with pytest.raises(DeviceError, match=r"the NVIDIA driver offers 0 devices|built without CUDA"):
        open_session(tiny, device="cuda:0", backend="onnxruntime")
    with pytest.raises(DeviceError):
        open_session(tiny, device="cuda")


@needs_bf16
@pytest.mark.parametrize(
    "proof",
    [
        (),
        (parity("bf16", "openvino", passed=False),),
        (parity("bf16", "onnxruntime"),),
        (parity("bf16", "openvino", "cuda"),),
    ],
)
def test_an_unverified_precision_is_refused(
    tmp_path: Path, write_tiny_model: Write, small_spec: Any, proof: Any
) -> None:
    path = write_tiny_model(tmp_path / "tiny.onnx", small_spec(parity=proof))
    with pytest.raises(DeviceError, match=r"bf16 on openvino is not verified for small \(verified: fp32\)"):
        open_session(path, precision="bf16")
    with open_session(path) as session:
        assert session.precision == "fp32"


def test_a_backend_opens_nothing_it_cannot_do(tiny: Path) -> None:
    with pytest.raises(DeviceError, match="bf16"):
        BACKENDS["onnxruntime"]().open(read_model_file(tiny), "cpu", "bf16", None)
    with pytest.raises(DeviceError, match="fp16"):
        BACKENDS["openvino"]().open(read_model_file(tiny), "cpu", "fp16", None)


@needs_int8
def test_a_form_is_found_beside_its_parent(tmp_path: Path, write_tiny_model: Write, small_spec: Any) -> None:
    parent = read_model_file(write_tiny_model(tmp_path / "tiny.onnx"))
    entries = {"cellengine.form": "int8", "cellengine.parent": parent.sha256}
    form = tmp_path / "tiny.int8.onnx"
    write_tiny_model(form, None, **entries)
    with pytest.raises(DeviceError, match=r"int8 on openvino is not verified for small \(verified: none\)"):
        open_session(parent, precision="int8", backend="openvino")

    write_tiny_model(form, small_spec(parity=(parity("int8", "openvino"),)), **entries)
    with open_session(parent.path, precision="int8") as session:
        assert (session.backend, session.precision) == ("openvino", "int8")
    with open_session(form) as session:
        assert session.precision == "int8"
    with pytest.raises(DeviceError, match=r"tiny\.int8\.onnx computes in int8 only"):
        open_session(form, precision="fp32")

    for spoil in (lambda: write_tiny_model(parent.path, small_spec(name="retrained")), lambda: form.write_bytes(b"x")):
        spoil()
        with open_session(parent.path) as session:
            assert session.precision == "fp32", "a form of no use does not cost the others"
        with pytest.raises(DeviceError, match=r"tiny\.int8\.onnx: not (made from tiny\.onnx|an ONNX)"):
            open_session(parent.path, precision="int8")


@needs_int8
def test_a_form_that_ran_elsewhere_is_unlocked_by_its_golden_test(
    tmp_path: Path, small_model: Any, small_spec: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An int8 form that was verified in onnxruntime only: OpenVINO may run it once it has passed the test here."""
    proto = onnx.load(small_model.path)
    (tmp_path / "small.onnx").write_bytes(small_model.path.read_bytes())
    parent = read_model_file(tmp_path / "small.onnx")
    spec = replace(parent.spec, parity=(parity("int8", "onnxruntime"),))
    entries = {e.key: e.value for e in proto.metadata_props}
    entries |= {METADATA_KEY: spec.to_json(), "cellengine.form": "int8", "cellengine.parent": parent.sha256}
    onnx.helper.set_model_props(proto, entries)
    onnx.save(proto, tmp_path / "small.int8.onnx")
    form = read_model_file(tmp_path / "small.int8.onnx")
    with pytest.raises(DeviceError, match=r"int8 of small was not yet run on openvino and cpu: .* `cellengine doctor"):
        open_session(parent, backend="openvino", precision="int8")
    with pytest.raises(SystemExit) as stop:
        main(["doctor", str(form.path)])
    assert stop.value.code == 0
    assert "as exported, unlocked" in capsys.readouterr().out
    with open_session(parent, backend="openvino", precision="int8") as session:
        assert (session.backend, session.precision) == ("openvino", "int8")
    monkeypatch.setenv("CELLENGINE_CACHE", str(tmp_path / "another machine"))
    with pytest.raises(DeviceError, match="doctor"):
        open_session(parent, backend="openvino", precision="int8")


@pytest.mark.skipif(platform.machine().lower() in ("arm64", "aarch64"), reason="ARM adds 8-bit products in 32 bits")
def test_int8_is_refused_where_it_would_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"avx2", "avx512f"}))
    for backend in CPU_BACKENDS:
        assert "no VNNI instructions" in BACKENDS[backend]().why_not("cpu", "int8")
        assert BACKENDS[backend]().why_not("cpu", "fp32") == ""


def test_missing_package(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_openvino(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "openvino":
            raise ImportError("No module named 'openvino'")
        return real(name, *arguments, **more)

    monkeypatch.delitem(sys.modules, "cellengine.engine.backends.openvino", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_openvino)
    with pytest.raises(DeviceError, match="run `pip install openvino`"):
        open_session(tiny, backend="openvino")
    with open_session(tiny) as session:
        assert session.backend == "onnxruntime"


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_graph_that_fails_on_a_batch_is_a_bad_model(tiny: Path, backend: str) -> None:
    proto = onnx.load(tiny)
    fixed = onnx.numpy_helper.from_array(np.array([1, 3, 64, 64]), "fixed")
    proto.graph.initializer.append(fixed)
    for node in proto.graph.node:
        node.input[:] = ["fixed image" if name == "image" else name for name in node.input]
    proto.graph.node.insert(0, onnx.helper.make_node("Reshape", ["image", "fixed"], ["fixed image"]))
    tiny.write_bytes(proto.SerializeToString())
    with open_session(tiny, backend=backend, precision="fp32") as session:
        session.run(np.zeros((1, 3, 64, 64), np.float32))
        with pytest.raises(ModelError, match=rf"small fails on a batch of \(2, 3, 64, 64\) in {backend}"):
            session.run(np.zeros((2, 3, 64, 64), np.float32))
        session.run(np.zeros((1, 3, 64, 64), np.float32))


OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from cellengine.engine.backends import open_session
from cellengine.engine.session import OutOfMemory

with open_session(Path(sys.argv[2]), backend=sys.argv[1], precision="fp32", threads=1) as session:
    small = np.zeros((1, 3, 64, 64), np.float32)
    session.run(small)
    large = np.zeros((8, 3, 1024, 1024), np.float32)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), before[1]))
    try:
        session.run(large)
    except OutOfMemory as error:
        assert "--batch" in str(error), error
    else:
        sys.exit("it fitted")
    # what the failed run had taken by then may lie in the arena: with room again the session must go on
    resource.setrlimit(resource.RLIMIT_AS, before)
    session.run(small)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_exhausted_memory_is_told_apart_and_survived(small_model: Any, backend: str) -> None:
    command = [sys.executable, "-c", OUT_OF_MEMORY, backend, str(small_model.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_bf16
def test_auto_times_what_is_verified_and_takes_the_fastest(small_model: Any, cache: Path) -> None:
    model = read_model_file(small_model.path)
    possible = [c for c in available(model) if not c.problem]
    assert {(c.backend, c.precision) for c in possible if c.device == "cpu"} == {
        ("openvino", "fp32"),
        ("openvino", "bf16"),
        ("onnxruntime", "fp32"),
    }
    choice = best_choice(model, possible, 1)
    assert {(t.backend, t.device, t.precision) for t in choice.timings} == {
        (c.backend, c.device, c.precision) for c in possible
    }
    assert all(t.seconds is not None and t.seconds > 0 for t in choice.timings)
    with open_session(model, threads=1) as session:
        assert (session.backend, session.device, session.precision) == choice.combination
    with open_session(model, backend="onnxruntime", threads=1) as session:
        assert session.backend == "onnxruntime"
    with open_session(model, precision="fp32", threads=1) as session:
        assert session.precision == "fp32"


def test_the_choice_is_made_once(small_model: Any, cache: Path) -> None:
    model = read_model_file(small_model.path)
    open_session(model).close()
    (kept,) = (cache / "auto").glob("*.json")
    data = json.loads(kept.read_text())
    for timing in data["timings"]:
        timing["seconds"] = 1e-9 if timing["backend"] == "onnxruntime" else 1.0
    kept.write_text(json.dumps(data))
    with open_session(model) as session:
        assert session.backend == "onnxruntime", "what the file says counts, nothing is timed again"

    other = replace(model, sha256="0" * 64)
    open_session(other).close()
    assert len(list((cache / "auto").glob("*.json"))) == 2, "another model is timed by itself"

    kept.write_text("{ damaged")
    open_session(model).close()
    assert json.loads(kept.read_text())["sha256"] == model.sha256


def test_a_cache_that_cannot_be_written_changes_nothing(
    small_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CELLENGINE_CACHE", str(tmp_path / "file"))
    with open_session(small_model.path) as session:
        assert session.spec == small_model.spec


def test_near_ties_go_to_the_more_exact() -> None:
    def winner(*timings: tuple[str, float | None]) -> str:
        made = tuple(Timing("b", "cpu", precision, seconds) for precision, seconds in timings)
        return Choice("m", "0", "here", 1, {}, made).combination[2]

    assert winner(("fp32", 1.0), ("bf16", 0.5)) == "bf16"
    assert winner(("fp32", 1.0), ("bf16", 0.99)) == "fp32"
    assert winner(("fp32", None), ("bf16", 9.0), ("int8", None)) == "bf16"


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("CELLENGINE_CACHE")
    assert "cellengine" in str(cache_folder())


def test_processors() -> None:
    assert cpu_count() >= 1
