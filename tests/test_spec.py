"""The spec of a model: what is written is read, and what cannot be known is refused."""

from __future__ import annotations

import json

import pytest

from cellengine.errors import ModelError
from cellengine.spec import SPEC_VERSION, DistanceWatershed, ModelSpec, Normalize, Output, Parity


def make_spec(**changes: object) -> ModelSpec:
    values: dict[str, object] = {
        "name": "test",
        "task": "instances",
        "axes": "YX",
        "channels": ("red", "green", "blue"),
        "tile": (64, 64),
        "divisor": (4, 4),
        "receptive_field": (23, 23),
        "halo": (8, 8),
        "normalize": Normalize("percentile", 1.0, 99.8, clip=(-0.5, 2.0)),
        "outputs": (Output("foreground"), Output("distance")),
        "decoder": DistanceWatershed(),
    }
    return ModelSpec(**{**values, **changes})  # type: ignore[arg-type]


def test_round_trip() -> None:
    parity = Parity("bf16", "openvino", "cpu", True, 8, 0.01, 0.995, 0.001, -0.0005)
    spec = make_spec(parity=(parity,), metrics={"ap50": 0.8}, voxel_size_um=(0.5, 0.5))
    assert ModelSpec.from_json(spec.to_json(), "x.onnx") == spec
    assert spec.precisions == ("bf16",)


def test_a_newer_version_is_refused() -> None:
    data = {**json.loads(make_spec().to_json()), "spec_version": SPEC_VERSION + 1}
    with pytest.raises(ModelError, match=r"x\.onnx: spec version 2 is newer than 1.*update cellengine"):
        ModelSpec.from_json(json.dumps(data), "x.onnx")


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"spec_version": "1"}'])
def test_what_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"x\.onnx: its spec"):
        ModelSpec.from_json(text, "x.onnx")


def test_a_tile_off_the_divisor_is_refused() -> None:
    data = {**json.loads(make_spec().to_json()), "tile": [65, 64]}
    with pytest.raises(ModelError, match="not a multiple of the divisor"):
        ModelSpec.from_json(json.dumps(data), "x.onnx")
