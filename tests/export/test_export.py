"""Export: one file that runs anywhere and says what it is, or no file at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cellengine.engine.backends import open_session
from cellengine.engine.golden import check_golden
from cellengine.engine.infer import infer_array
from cellengine.engine.model_file import read_model_file
from cellengine.errors import ModelError, UsageError
from cellengine.export import model as room
from cellengine.export.checkpoint import export_checkpoint
from cellengine.export.halo import TOLERANCE, measure_halo
from cellengine.models import build
from cellengine.models.checkpoint import save_checkpoint
from cellengine.models.session import TorchSession
from cellengine.spec import ModelSpec
from tests.export.conftest import CONFIG, spec_of
from tests.synthetic import draw_cells


def test_the_file_answers_like_the_network_and_proves_it(module: Any, checkpoint: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    path = tmp_path / "tiny.onnx"
    spec = export_checkpoint(checkpoint, path, ("fp32",), None, lines.append)
    file = read_model_file(path)
    assert file.spec == spec
    assert file.golden is not None
    assert {(p.backend, p.precision, p.passed) for p in spec.parity} == {
        ("onnxruntime", "fp32", True),
        ("openvino", "fp32", True),
    }
    assert any("F1 at IoU 0.8" in line for line in lines)
    picture, _ = draw_cells((90, 110), 20, seed=50)
    with TorchSession(module, spec) as reference:
        expected = infer_array(picture[None], reference).labels
    assert expected.max() > 5
    for backend in ("onnxruntime", "openvino"):
        with open_session(path, device="cpu", backend=backend, precision="fp32") as session:
            np.testing.assert_array_equal(infer_array(picture[None], session).labels, expected)
            assert check_golden(session, file.golden).passed


def test_a_graph_that_finds_other_objects_leaves_no_file(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is real: the exported weights are not those of the checkpoint."""
    honest = room.to_onnx

    def spoil(module: Any, spec: ModelSpec) -> Any:
        other = build(CONFIG)
        other.load_state_dict({k: v + 0.5 if k.endswith("bias") else v for k, v in module.state_dict().items()})
        return honest(other.eval(), spec)

    monkeypatch.setattr(room, "to_onnx", spoil)
    with pytest.raises(ModelError, match=r"fp32 does not find the same objects .* no file was written"):
        export_checkpoint(checkpoint, tmp_path / "tiny.onnx", ("fp32",), None, lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "weights.pt", {"model": {}})
    with pytest.raises(ModelError, match="no entry 'network'"):
        export_checkpoint(tmp_path / "weights.pt", tmp_path / "a.onnx", ("fp32",), None, print)
    with pytest.raises(UsageError, match="do not exist: name others with --verify-on"):
        export_checkpoint(checkpoint, tmp_path / "a.onnx", ("fp32",), str(tmp_path / "gone"), print)


class Fading:
    """A session whose answer depends on its surroundings within 10 px, faintly beyond 6."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        out = 0.5 * batch
        for shift, weight in ((6, 0.01), (10, 1e-5)):
            for axis in range(2, batch.ndim):
                for sign in (-1, 1):
                    moved = np.roll(batch, sign * shift, axis)
                    edge = [slice(None)] * batch.ndim
                    edge[axis] = slice(0, shift) if sign > 0 else slice(-shift, None)
                    moved[tuple(edge)] = 0  # what lies outside the tile is unknown
                    out = out + weight * moved
        return {"foreground": out}


def test_the_halo_is_the_smallest_that_keeps_the_tolerance() -> None:
    """Found by hand: 6 px away matters (0.01), 10 px away does not (1e-5 < 2.5e-4); the divisor is 4, so 8."""
    session = Fading(replace(spec_of(CONFIG), divisor=(4, 4)))
    pictures = [np.random.default_rng(s).random((1, 70, 90)).astype(np.float32) for s in range(3)]
    halo, change = measure_halo(session, pictures, (11, 11), core_px=16)  # type: ignore[arg-type]
    assert halo == (8, 8)
    assert 0 < change <= TOLERANCE


def test_the_halo_of_a_volume_is_measured_where_its_objects_are() -> None:
    """In the dark corners nothing moves at any halo; the answer must be that of the bright middle."""
    threefold = {"tile": (64,) * 3, "divisor": (4,) * 3, "receptive_field": (11,) * 3, "halo": (12,) * 3}
    session = Fading(replace(spec_of(CONFIG), axes="ZYX", **threefold))
    volume = np.zeros((1, 72, 72, 72), np.float32)
    volume[:, 18:54, 18:54, 18:54] = np.random.default_rng(0).random((36, 36, 36))
    halo, change = measure_halo(session, [volume], (11, 11, 11), core_px=16)  # type: ignore[arg-type]
    assert halo == (8, 8, 8)
    assert 0 < change <= TOLERANCE
