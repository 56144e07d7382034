"""The package for the BioImage Model Zoo: what its own library says of it."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cellengine.engine.backends import open_session
from cellengine.engine.golden import golden_input, golden_tile, make_golden
from cellengine.engine.model_file import read_model_file
from cellengine.errors import UsageError
from cellengine.export.bioimageio import write_package
from cellengine.export.graph import to_onnx, with_metadata
from cellengine.models import build
from cellengine.models.session import TorchSession
from cellengine.spec import Normalize
from tests.engine.conftest import small_spec, write_tiny_model
from tests.models.test_families import FAMILIES, spec_of

NORMALIZATIONS = [
    Normalize("percentile", 1.0, 99.8, clip=(-0.5, 2.0)),
    Normalize("minmax", per_channel=False),
    Normalize("zscore"),
    Normalize("constant", 0.0, 255.0),
]


@pytest.mark.parametrize("normalize", NORMALIZATIONS, ids=lambda n: n.method)
@pytest.mark.parametrize("axes", ["YX", "ZYX"])
def test_the_zoo_library_runs_the_package(tmp_path: Path, normalize: Normalize, axes: str) -> None:
    core = pytest.importorskip("bioimageio.core", reason="validates packages: pip install bioimageio.core")
    dims = len(axes)
    spec = small_spec(
        axes=axes,
        normalize=normalize,
        voxel_size_um=(0.5,) * dims,
        **{
            name: (value,) * dims for name, value in {"tile": 64, "divisor": 4, "receptive_field": 8, "halo": 4}.items()
        },
    )
    model = write_tiny_model(tmp_path / "tiny.onnx", spec)
    write_package(read_model_file(model), tmp_path / "tiny.zip")
    summary = core.test_model(tmp_path / "tiny.zip", weight_format="onnx")
    assert summary.status == "passed", summary.display()


@pytest.mark.parametrize("name", ["unet-2d", "unet-3d", "fcn-8s", "hourglass", "vgg", "resnet"])
def test_every_family_that_can_be_described_passes(tmp_path: Path, name: str) -> None:
    """Real networks, exported as `cellengine export` does; a detector is refused below."""
    core = pytest.importorskip("bioimageio.core", reason="validates packages: pip install bioimageio.core")
    config, task = FAMILIES[name]
    torch.manual_seed(0)
    module = build(config).eval()
    spec = spec_of(config, task)
    channels, tile = len(spec.channels), spec.tile if task == "classification" else golden_tile(spec.divisor)
    with TorchSession(module, spec) as session:
        golden = make_golden(session.run(golden_input(channels, tile)), channels, tile)
    model = tmp_path / "tiny.onnx"
    model.write_bytes(with_metadata(to_onnx(module, spec), spec, golden))
    write_package(read_model_file(model), tmp_path / "tiny.zip")
    summary = core.test_model(tmp_path / "tiny.zip", weight_format="onnx")
    assert summary.status == "passed", summary.display()


def test_the_package_answers_like_the_model(tmp_path: Path) -> None:
    """Read without the library: raw picture, scaling and answers fit together, and the weights are the model's."""
    spec = small_spec(normalize=Normalize("percentile", 1.0, 99.0))
    model = write_tiny_model(tmp_path / "tiny.onnx", spec)
    write_package(read_model_file(model), tmp_path / "tiny.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.onnx", "tiny.zip"]
    with zipfile.ZipFile(tmp_path / "tiny.zip") as archive:
        described: Any = json.loads(archive.read("rdf.yaml"))
        assert archive.read("weights.onnx") == model.read_bytes()
        raw, expected = (np.load(archive.open(f"test_{name}.npy")) for name in ("input", "foreground"))
    low, high = (np.percentile(raw, q, axis=(2, 3), keepdims=True) for q in (1, 99))
    scaled = ((raw - low) / (high - low + 1e-6)).astype(np.float32)
    with open_session(model, device="cpu", backend="onnxruntime", precision="fp32") as session:
        np.testing.assert_allclose(session.run(scaled)["foreground"], expected, atol=1e-5)
    assert [o["id"] for o in described["outputs"]] == ["foreground", "distance"]
    assert described["inputs"][0]["axes"][2]["size"] == {"min": 28, "step": 4}
    assert described["outputs"][0]["axes"][3]["halo"] == 12


def test_boxes_cannot_be_described(tmp_path: Path) -> None:
    file = read_model_file(write_tiny_model(tmp_path / "tiny.onnx"))
    with pytest.raises(UsageError, match="answers with boxes"):
        write_package(replace(file, spec=replace(file.spec, task="detection")), tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
