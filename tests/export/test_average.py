"""The mean of a trained model and the one it started from."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")

from cellengine.engine.model_file import read_model_file
from cellengine.errors import ModelError
from cellengine.export.average import average_with
from cellengine.export.checkpoint import export_checkpoint
from cellengine.export.graph import to_onnx
from cellengine.models import ResNetConfig, UNetConfig, build
from tests.export.conftest import CONFIG, spec_of


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "tiny.onnx"
    export_checkpoint(checkpoint, path, ("fp32",), None, lambda line: None)
    return path


@pytest.fixture
def trained(module: Any) -> Any:
    """The network after more training: other weights, and other statistics in its BatchNorms."""
    other = deepcopy(module)
    torch.manual_seed(8)
    with torch.no_grad():
        for values in other.parameters():
            values.add_(0.1 * torch.randn_like(values))
    other.train()
    for _ in range(5):
        other(torch.rand(2, 1, 64, 64) * 2)
    return other.eval()


def answers(module: Any, image: Any) -> list[np.ndarray]:
    with torch.inference_mode():
        return [value.numpy() for value in module(image).values()]


def test_ends_are_the_two_models(trained: Any, module: Any, exported: Path) -> None:
    image = torch.rand(1, 1, 64, 64)
    before, start = answers(trained, image), answers(module, image)
    assert max(np.abs(a - b).max() for a, b in zip(before, start, strict=True)) > 0.05
    for share, expected in ((0.0, before), (1.0, start)):
        mean = deepcopy(trained)
        average_with(mean, exported, share)
        for a, b in zip(answers(mean, image), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_in_between_it_is_the_mean_of_the_exported_weights(trained: Any, exported: Path) -> None:
    graphs = [to_onnx(trained, spec_of(CONFIG)), onnx.load(exported)]
    stored = [{t.name: numpy_helper.to_array(t) for t in graph.graph.initializer} for graph in graphs]
    mixed = onnx.ModelProto()
    mixed.CopyFrom(graphs[0])
    for tensor in mixed.graph.initializer:
        a, b = (values[tensor.name] for values in stored)
        if a.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(np.float32(0.7) * a + np.float32(0.3) * b, tensor.name))
    image = torch.rand(1, 1, 64, 64)
    expected = onnxruntime.InferenceSession(mixed.SerializeToString()).run(None, {"image": image.numpy()})
    average_with(trained, exported, 0.3)
    for a, b in zip(answers(trained, image), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_what_is_exported_is_the_mean(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    export_checkpoint(checkpoint, tmp_path / "mean.onnx", ("fp32",), None, lambda line: None, average=(exported, 0.4))
    assert read_model_file(tmp_path / "mean.onnx").spec.parity[0].passed
    pairs = zip(*(onnx.load(path).graph.initializer for path in (tmp_path / "mean.onnx", exported)), strict=True)
    for a, b in pairs:  # the run is the one that was exported
        np.testing.assert_allclose(numpy_helper.to_array(a), numpy_helper.to_array(b), atol=1e-5)


def test_another_network_is_refused(exported: Path) -> None:
    with pytest.raises(ModelError, match=r"tiny\.onnx: another network"):
        average_with(build(UNetConfig(channels_in=1, widths=(6, 8, 10))), exported, 0.5)
    with pytest.raises(ModelError, match="right before every BatchNorm"):
        average_with(build(ResNetConfig(channels_in=1, classes=2, width=4)), exported, 0.5)
