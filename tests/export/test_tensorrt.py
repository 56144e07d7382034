"""All four families, at the size of their presets, parse and build with TensorRT-RTX on a machine without a GPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
library = pytest.importorskip("tensorrt_rtx", reason="builds engines without a GPU: pip install tensorrt-rtx")

from cellengine.engine.backends.tensorrt import build_plan
from cellengine.export.detection import in_form
from cellengine.export.graph import to_onnx
from cellengine.models import build
from cellengine.train.config import load_config
from cellengine.train.describe import describe_model

PRESETS = ("nuclei-unet", "nuclei3d", "wbc-fcn8s", "livedead-resnet", "nuclei-maskrcnn")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_family_builds_ahead_of_time(preset: str) -> None:
    config = load_config(preset, ["data.path='none'"])
    torch.manual_seed(0)
    module = in_form(build(config.model).eval(), "gridsample")
    spec = describe_model(config, 30.0)
    content = to_onnx(module, spec).SerializeToString()
    assert len(build_plan(library, content, spec, capability="SM89")) > 100_000
