"""What every session must do, whatever runs it: one suite, inherited by each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest

from cellengine.engine.backends import BACKENDS
from cellengine.engine.golden import check_golden
from cellengine.engine.model_file import read_model_file
from cellengine.engine.session import Session
from cellengine.errors import InputError

SHAPES = [(1, 64, 64), (2, 64, 64), (3, 36, 100), (1, 4, 4), (1, 132, 68)]


def pictures(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """(N, 3, *sides) of smooth random structure in 0..1."""
    rng = np.random.default_rng(seed)
    batch, *sides = shape
    coarse = rng.random((batch, 3, *(-(-n // 4) for n in sides)), dtype=np.float32)
    for axis in range(2, 2 + len(sides)):
        coarse = coarse.repeat(4, axis)
    return np.ascontiguousarray(coarse[(slice(None), slice(None), *(slice(n) for n in sides))])


class SessionSuite:
    precision: ClassVar[str]
    backend: ClassVar[str]
    tolerance: ClassVar[float]
    """largest absolute difference from fp32 PyTorch, outputs being in 0..1"""

    def open(self, model: Any) -> Session:
        file = read_model_file(model.path)
        return BACKENDS[self.backend]().open(file, "cpu", self.precision, 2)

    @pytest.fixture
    def session(self, small_model: Any) -> Iterator[Session]:
        with self.open(small_model) as session:
            yield session

    def expected(self, model: Any, batch: np.ndarray) -> dict[str, np.ndarray]:
        torch = pytest.importorskip("torch")
        with torch.inference_mode():
            return {name: value.numpy() for name, value in model.module(torch.from_numpy(batch)).items()}

    def test_says_what_it_is(self, session: Session, small_model: Any) -> None:
        assert session.spec == small_model.spec
        assert (session.backend, session.device, session.precision) == (self.backend, "cpu", self.precision)
        assert session.concurrency >= 1
        description = session.describe()
        assert description["backend"] == self.backend
        assert {"version", "provider", "threads", "precision", "device"} <= set(description)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_is_close_to_torch_fp32_at_any_shape(self, session: Session, small_model: Any, shape: Any) -> None:
        batch = pictures(shape)
        outputs = session.run(batch)
        expected = self.expected(small_model, batch)
        assert set(outputs) == {"foreground", "distance"}
        for name, values in outputs.items():
            assert values.dtype == np.float32
            assert values.shape == (shape[0], 1, *shape[1:])
            assert np.abs(values - expected[name]).max() <= self.tolerance

    def test_is_close_in_3d(self, small_volume_model: Any) -> None:
        batch = pictures((2, 8, 20, 12))
        expected = self.expected(small_volume_model, batch)
        with self.open(small_volume_model) as session:
            for name, values in session.run(batch).items():
                assert values.shape == (2, 1, 8, 20, 12)
                assert np.abs(values - expected[name]).max() <= self.tolerance

    @pytest.mark.parametrize(
        ("shape", "halo"), [((1, 64, 64), (24, 24)), ((2, 100, 60), (9, 0)), ((1, 64, 64), (31, 1))]
    )
    def test_with_a_halo_it_answers_the_core(self, session: Session, shape: Any, halo: tuple[int, ...]) -> None:
        """The same numbers go into every voxel of it; how a library adds them up may depend on the size."""
        batch = pictures(shape)
        whole = session.run(batch)
        for values in (session.run(batch, halo), session.run(batch, halo)):
            for name, found in values.items():
                core = whole[name][:, :, halo[0] : shape[1] - halo[0], halo[1] : shape[2] - halo[1]]
                assert found.shape == core.shape
                assert np.abs(found - core).max() <= self.tolerance / 2
        assert all((session.run(batch)[name] == values).all() for name, values in whole.items())

    def test_with_a_halo_it_answers_the_core_in_3d(self, small_volume_model: Any) -> None:
        batch = pictures((2, 16, 36, 28))
        with self.open(small_volume_model) as session:
            whole, core = session.run(batch), session.run(batch, (5, 12, 4))
        for name, found in core.items():
            assert np.abs(found - whole[name][:, :, 5:-5, 12:-12, 4:-4]).max() <= self.tolerance / 2

    def test_a_halo_that_leaves_no_core_is_refused(self, session: Session) -> None:
        with pytest.raises(InputError, match="no core in a halo of"):
            session.run(pictures((1, 64, 64)), (32, 8))

    def test_outputs_are_the_callers(self, session: Session) -> None:
        batch = pictures((1, 64, 64))
        first = session.run(batch)["foreground"]
        kept = first.copy()
        session.run(1 - batch)
        assert (first == kept).all()
        first[:] = -1
        assert (session.run(batch)["foreground"] == kept).all()

    def test_leaves_the_batch_alone_and_takes_views(self, session: Session) -> None:
        whole = pictures((2, 64, 128))
        kept = whole.copy()
        view = whole[:, :, :, ::2]
        assert not view.flags.c_contiguous
        whole.flags.writeable = view.flags.writeable = False
        assert (session.run(view)["distance"] == session.run(view.copy())["distance"]).all()
        session.run(whole)
        assert (whole == kept).all()

    def test_many_threads_get_the_bits_of_one(self, session: Session) -> None:
        batches = [pictures((1 + i % 2, 64, 32 + 32 * (i % 3)), seed=i) for i in range(18)]
        alone = [session.run(batch) for batch in batches]
        with ThreadPoolExecutor(2 * session.concurrency + 2) as pool:
            together = list(pool.map(session.run, batches))
        for a, b in zip(alone, together, strict=True):
            assert all((a[name] == b[name]).all() for name in a)

    def test_a_second_session_gives_the_same_bits(self, session: Session, small_model: Any) -> None:
        batch = pictures((2, 64, 64))
        with self.open(small_model) as other:
            assert (other.run(batch)["foreground"] == session.run(batch)["foreground"]).all()

    @pytest.mark.parametrize(
        "batch",
        [
            np.zeros((1, 1, 64, 64), np.float32),
            np.zeros((1, 4, 64, 64), np.float32),
            np.zeros((3, 64, 64), np.float32),
            np.zeros((1, 3, 8, 64, 64), np.float32),
            np.zeros((1, 3, 64, 62), np.float32),
            np.zeros((1, 3, 0, 64), np.float32),
            np.zeros((0, 3, 64, 64), np.float32),
            np.zeros((1, 3, 64, 64), np.float64),
            np.zeros((1, 3, 64, 64), np.uint8),
        ],
        ids=lambda a: f"{a.dtype}{a.shape}",
    )
    def test_a_batch_that_does_not_fit_is_refused(self, session: Session, batch: np.ndarray) -> None:
        with pytest.raises(InputError):
            session.run(batch)
        session.run(pictures((1, 64, 64)))

    def test_closed_is_closed(self, small_model: Any) -> None:
        session = self.open(small_model)
        session.close()
        session.close()
        with pytest.raises(ValueError, match="closed"):
            session.run(pictures((1, 64, 64)))

    def test_close_lets_running_calls_finish(self, small_model: Any) -> None:
        session = self.open(small_model)
        batch = pictures((2, 256, 256))
        session.run(batch)
        results: list[Any] = []
        started = threading.Event()

        def work() -> None:
            started.set()
            try:
                while True:
                    results.append(session.run(batch)["foreground"])
            except ValueError as error:
                results.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        started.wait()
        session.close()
        for thread in threads:
            thread.join(timeout=30)
            assert not thread.is_alive()
        errors = [r for r in results if isinstance(r, ValueError)]
        assert len(errors) == 4
        assert all(np.isfinite(r).all() for r in results if not isinstance(r, ValueError))

    def test_passes_the_golden_test(self, session: Session, small_model: Any) -> None:
        golden = read_model_file(small_model.path).golden
        assert golden is not None
        result = check_golden(session, golden)
        assert result.passed, result.problem


class TestOnnxRuntime(SessionSuite):
    backend, precision, tolerance = "onnxruntime", "fp32", 1e-5


class TestOpenVino(SessionSuite):
    backend, precision, tolerance = "openvino", "fp32", 1e-5


class TestOpenVinoBf16(SessionSuite):
    backend, precision, tolerance = "openvino", "bf16", 0.05

    @pytest.fixture(autouse=True)
    def needs_bf16(self) -> None:
        if "bf16" not in BACKENDS["openvino"]().precisions("cpu"):
            pytest.skip("this processor has no bf16 instructions")

    def test_really_computes_in_bf16(self, session: Session, small_model: Any) -> None:
        batch = pictures((1, 64, 64))
        difference = np.abs(session.run(batch)["foreground"] - self.expected(small_model, batch)["foreground"]).max()
        assert difference > 1e-4


class TestTorch(SessionSuite):
    backend, precision, tolerance = "torch", "fp32", 1e-5

    def open(self, model: Any) -> Session:
        pytest.importorskip("torch")
        from cellengine.models.session import TorchSession

        return TorchSession(model.module, model.spec)


class TestTorchBf16(SessionSuite):
    backend, precision, tolerance = "torch", "bf16", 0.05

    def open(self, model: Any) -> Session:
        pytest.importorskip("torch")
        from cellengine.models.session import TorchSession

        return TorchSession(model.module, model.spec, "bf16")
