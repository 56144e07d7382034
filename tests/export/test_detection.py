"""A detector as one file: the same objects from PyTorch, onnxruntime and OpenVINO, in both forms, at any size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from cellengine.engine.backends import open_session
from cellengine.engine.golden import check_golden
from cellengine.engine.infer import infer_array
from cellengine.engine.model_file import find_form, read_model_file
from cellengine.errors import UsageError
from cellengine.export.checkpoint import export_checkpoint
from cellengine.export.detection import in_form, truncated
from cellengine.models.checkpoint import save_checkpoint
from cellengine.models.session import TorchSession
from cellengine.records import to_plain
from cellengine.spec import Detections, ModelSpec, Normalize
from tests.models.detector import TINY, detector
from tests.synthetic import draw_cells, write_annotated

CONFIG = replace(TINY, suppression_depth=4, min_score=0.05)
SPEC = ModelSpec(
    name="tiny-detector",
    task="detection",
    axes="YX",
    channels=("signal",),
    tile=(96, 96),
    divisor=CONFIG.divisor,
    receptive_field=CONFIG.receptive_field,
    halo=(16, 16),
    normalize=Normalize("minmax"),
    outputs=CONFIG.outputs,
    decoder=Detections(min_score=0.1, max_iou=0.5),
    classes=("cell",),
)
BACKENDS = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A checkpoint of random weights, exported through the whole road: both forms, verified."""
    folder = tmp_path_factory.mktemp("run")
    state = {
        "model": detector(CONFIG).state_dict(),
        "network": json.dumps(to_plain(CONFIG)),
        "spec": SPEC.to_json(),
        "data": str(write_annotated(folder / "data", 6)),
    }
    save_checkpoint(folder / "best.pt", state)
    lines: list[str] = []
    export_checkpoint(folder / "best.pt", folder / "tiny.onnx", ("fp32",), None, lines.append)
    return folder / "tiny.onnx", lines


def batch(n: int, height: int, width: int) -> np.ndarray:
    pictures = [draw_cells((height, width), 20, seed=s)[0] for s in range(n)]
    return (np.stack(pictures)[:, None] / 255).astype(np.float32)


def assert_same(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """The same count, boxes within 0.01 px, masks within 0.001; objects of one score may change places."""
    assert (expected["count"] == found["count"]).all()
    assert (expected["count"] > 0).all()
    for n, count in enumerate(expected["count"].astype(int)):
        distance = np.abs(expected["boxes"][n, :count, None] - found["boxes"][n, None, :count]).max(2)
        partner = distance.argmin(1)
        assert sorted(partner.tolist()) == list(range(count))
        for name, tolerance in (("boxes", 1e-2), ("scores", 1e-4), ("classes", 0), ("masks", 1e-3)):
            np.testing.assert_allclose(found[name][n, partner], expected[name][n, :count], atol=tolerance, err_msg=name)
            assert not found[name][n, count:].any()


@pytest.mark.parametrize("form", ["roialign", "gridsample"])
def test_every_runtime_gives_the_same_objects_at_any_size(exported: tuple[Path, list[str]], form: str) -> None:
    parent = read_model_file(exported[0])
    file = parent if form == "roialign" else find_form(parent, "gridsample")
    assert file is not None
    kinds = {node for node in ("RoiAlign", "GridSample") if node.encode() in file.content}
    assert kinds == {{"roialign": "RoiAlign", "gridsample": "GridSample"}[form]}
    with TorchSession(detector(CONFIG), SPEC) as reference:
        for backend in BACKENDS:
            with open_session(file.path, device="cpu", backend=backend, precision="fp32") as session:
                for shape in ((1, 64, 64), (3, 48, 112), (2, 160, 96)):
                    images = batch(*shape)
                    assert_same(reference.run(images), session.run(images))
                assert file.golden is not None
                assert check_golden(session, file.golden).passed


def test_the_road_says_what_it_verified_and_names_the_sides(exported: tuple[Path, list[str]]) -> None:
    path, lines = exported
    spec = read_model_file(path).spec
    assert spec.halo == SPEC.halo  # overlap by an object is no question of the network's surroundings
    assert [p.backend for p in spec.parity if p.passed] == list(BACKENDS)
    assert "gridsample:" in lines
    graph = onnx.load(path).graph
    # suppression without MatMul: what leads to one OpenVINO computes in bf16, corners of boxes too
    assert not [node for node in graph.node if node.op_type == "MatMul"]
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.output}
    assert shapes["masks"] == ["batch", CONFIG.detections, 28, 28]
    assert shapes["boxes"] == ["batch", CONFIG.detections, 4]
    assert not [p for p in path.parent.iterdir() if "partial" in p.name]


def test_infer_finds_the_same_with_every_backend(exported: tuple[Path, list[str]]) -> None:
    picture, _ = draw_cells((140, 130), 30, seed=9)
    with TorchSession(detector(CONFIG), SPEC) as reference:
        expected = infer_array(picture[None], reference).labels
    assert expected.max() > 3
    for backend in BACKENDS:
        with open_session(exported[0], device="cpu", backend=backend, precision="fp32") as session:
            found = infer_array(picture[None], session).labels
        assert found.max() == expected.max()
        assert (found != expected).mean() < 1e-3


def test_truncation_is_for_detectors_and_says_so() -> None:
    with pytest.raises(UsageError, match="no box head"):
        truncated(torch.nn.Conv2d(1, 1, 1), 3)
    module = detector(CONFIG)
    assert truncated(module, None) is module
    assert in_form(module, "roialign").roi_align.form == "roialign"
    assert module.roi_align.form == "rows"
