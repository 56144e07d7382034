"""When memory runs out, smaller pieces give the same answer; other errors are not taken for lack of memory."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellengine.engine.backends import BACKENDS
from cellengine.engine.frugal import run_within_memory
from cellengine.engine.infer import infer_array
from cellengine.engine.model_file import read_model_file
from cellengine.engine.options import InferOptions
from cellengine.engine.session import OutOfMemory
from cellengine.errors import ModelError, ResourceError
from tests.engine.detector import write_peak_model
from tests.engine.test_sessions import pictures

HALO = (24, 24)
"""the receptive field of the small model is 22 px, in multiples of 4"""


class Tight:
    """A real session with a real allocation that fails: more values than `most` are asked of a machine without them."""

    def __init__(self, session: Any, most: int) -> None:
        self.inner, self.spec, self.device, self.most = session, session.spec, session.device, most
        self.backend, self.precision, self.concurrency = session.backend, session.precision, 1
        self.shapes: list[tuple[int, ...]] = []

    def run(self, batch: np.ndarray, halo: tuple[int, ...] | None = None) -> dict[str, np.ndarray]:
        self.shapes.append(batch.shape)
        if batch.size > self.most:
            try:
                np.empty(1 << 60, np.uint8)
            except MemoryError as error:
                raise OutOfMemory("a batch does not fit") from error
        answers: dict[str, np.ndarray] = self.inner.run(batch, halo)
        return answers

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = self.inner.describe()
        return described


@pytest.fixture
def session(small_model: Any) -> Any:
    with BACKENDS["onnxruntime"]().open(read_model_file(small_model.path), "cpu", "fp32", 1) as session:
        yield session


@pytest.mark.parametrize("most", [3 * 160 * 128 * 2, 3 * 160 * 128, 3 * 12000, 3 * 4000])
def test_pieces_give_the_answer_of_the_whole(session: Any, most: int, caplog: Any) -> None:
    batch = pictures((3, 160, 128))
    whole = session.run(batch, HALO)
    tight = Tight(session, most)
    with caplog.at_level(logging.WARNING):
        pieces = run_within_memory(tight, batch, HALO)  # type: ignore[arg-type]
        again = run_within_memory(tight, batch, HALO)  # type: ignore[arg-type]
    for name, values in whole.items():
        assert pieces[name].shape == values.shape
        assert np.abs(pieces[name] - values).max() <= 1e-5
        np.testing.assert_array_equal(again[name], pieces[name])
    assert len([r for r in caplog.records if "does not fit into the memory" in r.message]) == 1
    assert all(n % 4 == 0 for shape in tight.shapes for n in shape[2:])
    tried = [shape for shape in tight.shapes if np.prod(shape) > most]
    assert tried == sorted(set(tried), key=lambda s: -np.prod(s)), "what did not fit once is not tried again"


def test_below_the_smallest_piece_it_is_an_error(session: Any) -> None:
    with pytest.raises(ResourceError, match=r"Not even a batch of \(1, 3, 52, 52\), the smallest that keeps its halo"):
        run_within_memory(Tight(session, 100), pictures((2, 64, 64)), HALO)  # type: ignore[arg-type]


def test_other_errors_are_passed_on(session: Any) -> None:
    class Broken(Tight):
        def run(self, batch: np.ndarray, halo: tuple[int, ...] | None = None) -> dict[str, np.ndarray]:
            self.shapes.append(batch.shape)
            raise ModelError("the graph fails: Reshape")

    broken = Broken(session, 0)
    with pytest.raises(ModelError, match="Reshape"):
        run_within_memory(broken, pictures((2, 64, 64)), HALO)  # type: ignore[arg-type]
    assert broken.shapes == [(2, 3, 64, 64)]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", [(150, 170), (70, 90)])
def test_windows_of_a_detector_are_halved_too(tmp_path: Path, batch: int, shape: tuple[int, int], caplog: Any) -> None:
    """Every object once, whole, and in the same place: also those that lie where a window is cut."""
    picture = np.zeros(shape, np.uint8)
    for y, x in np.ndindex(shape[0] // 20, shape[1] // 20):
        picture[20 * y + 6 : 20 * y + 15, 20 * x + 6 : 20 * x + 15] = 100 + (7 * y + 13 * x) % 100
    with BACKENDS["onnxruntime"]().open(
        read_model_file(write_peak_model(tmp_path / "peaks.onnx")), "cpu", "fp32", 1
    ) as session:
        options = InferOptions(batch=batch)
        expected = infer_array(picture[None], session, options)
        assert len(expected.objects["label"]) == (shape[0] // 20) * (shape[1] // 20)
        tight = Tight(session, 64 * 80)
        found = infer_array(picture[None], tight, options)  # type: ignore[arg-type]
        assert any(np.prod(shape) <= tight.most for shape in tight.shapes)
        assert all(n % 8 == 0 for shape in tight.shapes for n in shape[2:])
        np.testing.assert_array_equal(found.labels, expected.labels)
        with pytest.raises(ResourceError, match="Not even a batch"):
            infer_array(picture[None], Tight(session, 100), options)  # type: ignore[arg-type]
    assert len([r for r in caplog.records if "does not fit into the memory" in r.message]) == 2


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from cellengine.engine.backends import open_session
from cellengine.engine.flow import Stop
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import plan_picture
from cellengine.engine.predict import predict
from cellengine.engine.scale import measure_scene
from cellengine.engine.scene import scenes
from cellengine.io import MemorySource

coarse = np.random.default_rng(0).integers(0, 255, (150, 200), np.uint8)
picture = coarse.repeat(4, 0).repeat(4, 1)
options = InferOptions(tile=(704, 896), halo="exact", batch=2)

def scores(picture, limited):
    with open_session(Path(sys.argv[2]), backend=sys.argv[1], precision="fp32", threads=1) as session:
        scene = scenes(MemorySource(picture), session.spec, options)[0]
        plan = plan_picture(scene.shape, session, options)
        scale = measure_scene(scene, session.spec.normalize).scale
        session.run(np.zeros((1, 3, 400, 400), np.float32), plan.halo)  # the graph is made for the halo, once
        before = resource.getrlimit(resource.RLIMIT_AS)
        if limited:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (160 << 20), before[1]))
        try:
            return predict(scene, session, plan, scale, Stop(), lambda tiles: None)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

scores(picture[:64, :64], False)  # numba's functions are made before memory is scarce: LLVM aborts where it gets none
within, freely = scores(picture, True), scores(picture, False)
for name in freely:
    assert np.abs(within[name].astype(int) - freely[name].astype(int)).max() <= 7, name
    assert freely[name].std() > 100
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_run_survives_exhausted_memory(small_model: Any, backend: str) -> None:
    """The allocation that fails is the runtime's own: the address space is limited while the tiles are run."""
    command = [sys.executable, "-c", LIMITED, backend, str(small_model.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("does not fit into the memory of cpu: going on with smaller pieces") == 1
