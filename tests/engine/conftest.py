"""A small real U-Net, exported as `cellengine export` does it, with spec and golden test in its metadata."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from cellengine.engine.golden import golden_input, golden_tile, make_golden
from cellengine.engine.model_file import GOLDEN_KEY
from cellengine.spec import INPUT_NAME, METADATA_KEY, DistanceWatershed, ModelSpec, Normalize, Output, Parity


@dataclass(frozen=True)
class SmallModel:
    module: Any
    spec: ModelSpec
    path: Path


def small_spec(**changes: Any) -> ModelSpec:
    spec = ModelSpec(
        name="small",
        task="instances",
        axes="YX",
        channels=("r", "g", "b"),
        tile=(64, 64),
        divisor=(4, 4),
        receptive_field=(22, 22),
        halo=(12, 12),
        normalize=Normalize("percentile", 1.0, 99.0),
        outputs=(Output("foreground"), Output("distance")),
        decoder=DistanceWatershed(),
    )
    return replace(spec, **changes)


def write_metadata(path: Path, entries: dict[str, str]) -> None:
    proto = onnx.load(path)
    helper.set_model_props(proto, {**{e.key: e.value for e in proto.metadata_props}, **entries})
    onnx.save(proto, path)


def write_tiny_model(path: Path, spec: ModelSpec | None = None, **entries: str) -> Path:
    """A valid model without torch: one convolution and a sigmoid per output of `spec`. `entries`: more metadata."""
    spec = spec or small_spec()
    rng = np.random.default_rng(0)
    sides = [f"side{i}" for i in range(len(spec.axes))]
    channels, kernel = len(spec.channels), (3,) * len(spec.axes)
    nodes, weights, outputs = [], [], []
    for output in spec.outputs:
        weight = rng.normal(0, 0.5, (output.channels, channels, *kernel)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(weight, f"{output.name}.weight"))
        conv = f"{output.name}.conv"
        pads = [1] * (2 * len(sides))
        nodes.append(helper.make_node("Conv", [INPUT_NAME, f"{output.name}.weight"], [conv], pads=pads))
        nodes.append(helper.make_node("Sigmoid", [conv], [output.name]))
        shape = ["batch", output.channels, *sides]
        outputs.append(helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, shape))
    image = helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.FLOAT, ["batch", channels, *sides])
    graph = helper.make_graph(nodes, "tiny", [image], outputs, weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, {METADATA_KEY: spec.to_json(), **entries})
    onnx.save(proto, path)
    return path


def build_small_model(folder: Path, dims: int) -> SmallModel:
    torch = pytest.importorskip("torch", reason="makes the small model with the extra `train`")
    from cellengine.models import UNetConfig, build
    from cellengine.models.session import TorchSession

    torch.manual_seed(dims)
    config = UNetConfig(dims=dims, channels_in=3, widths=(8, 16, 16))
    module = build(config)
    tile = golden_tile(config.divisor)
    picture = torch.from_numpy(golden_input(3, tile))
    with torch.no_grad():
        for _ in range(20):  # BatchNorm statistics of pictures, so that the outputs are neither all 0 nor all 1
            module(picture)
    module.eval()
    spec = small_spec(
        axes="ZYX"[-dims:],
        tile=tile,
        divisor=config.divisor,
        receptive_field=config.receptive_field,
        halo=config.receptive_field,
        parity=(Parity("bf16", "openvino", "cpu", passed=True, pictures=1, max_difference=0.05),),
    )
    path = folder / f"small{dims}d.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (picture,),
            path,
            dynamo=True,
            opset_version=20,
            external_data=False,
            verbose=False,
            input_names=["image"],
            output_names=[output.name for output in spec.outputs],
            dynamic_shapes={"image": {0: "batch", **{2 + i: "zyx"[-dims + i] for i in range(dims)}}},
        )
    with TorchSession(module, spec) as session:
        golden = make_golden(session.run(golden_input(3, tile)), 3, tile)
    write_metadata(path, {METADATA_KEY: spec.to_json(), GOLDEN_KEY: golden.to_json()})
    return SmallModel(module, spec, path)


@pytest.fixture(name="write_tiny_model")
def write_tiny_model_fixture() -> Callable[..., Path]:
    return write_tiny_model


@pytest.fixture(name="small_spec")
def small_spec_fixture() -> Callable[..., ModelSpec]:
    return small_spec


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return build_small_model(tmp_path_factory.mktemp("small2d"), 2)


@pytest.fixture(scope="session")
def small_volume_model(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return build_small_model(tmp_path_factory.mktemp("small3d"), 3)
