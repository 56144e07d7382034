"""Export of what does not find cells: maps of classes and classes of crops are verified by what they answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cellengine.errors import ModelError
from cellengine.export import model as room
from cellengine.export.checkpoint import export_checkpoint
from cellengine.io import write_png
from cellengine.models import HourglassConfig, ModelConfig, ResNetConfig, build
from cellengine.models.checkpoint import save_checkpoint
from cellengine.records import to_plain
from cellengine.spec import ArgMax, ClassOf, ModelSpec, Normalize


def learn(config: ModelConfig, image: torch.Tensor, truth: torch.Tensor) -> torch.nn.Module:
    """A network that is sure of itself, as one that was trained is."""
    torch.manual_seed(0)
    module = build(config).train()
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(module.logits(image)["classes"], truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


def checkpoint(folder: Path, config: ModelConfig, module: torch.nn.Module, data: Path, **spec: Any) -> Path:
    described = ModelSpec(
        name="tiny",
        axes="YX",
        channels=("grey",),
        divisor=config.divisor,
        receptive_field=config.receptive_field,
        halo=tuple(-(-r // d) * d for r, d in zip(config.receptive_field, config.divisor, strict=True)),
        normalize=Normalize("constant", 0.0, 255.0),
        outputs=config.outputs,
        classes=("a", "b"),
        **spec,
    )
    state = {
        "model": module.state_dict(),
        "network": json.dumps(to_plain(config)),
        "spec": described.to_json(),
        "data": str(data),
        "config": json.dumps({"data": {"label": "kind", "where": {}, "axes": ""}}),
    }
    save_checkpoint(folder / "best.pt", state)
    return folder / "best.pt"


@pytest.fixture(scope="module")
def semantic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("semantic")
    random, rows = np.random.default_rng(0), ["image,mask,split"]
    for i in range(3):
        picture = np.kron(random.integers(0, 2, (5, 6)), np.ones((8, 8))).astype(np.uint8) * 200
        write_png(folder / f"{i}.png", picture)
        write_png(folder / f"{i}_mask.png", (picture > 0).astype(np.uint8) * 128)
        rows.append(f"{i}.png,{i}_mask.png,{'val' if i else 'train'}")
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    config = HourglassConfig(channels_in=1, classes=2, widths=(6,), kernel=3)
    image = torch.from_numpy(picture / np.float32(255))[None, None]
    module = learn(config, image, (image[:, 0] > 0).long())
    return checkpoint(folder, config, module, folder / "list.csv", task="semantic", tile=(32, 32), decoder=ArgMax())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    random = np.random.default_rng(0)
    kind = np.arange(24) % 2
    image = random.integers(0, 90, (24, 20, 20)).astype(np.uint8)
    image[kind == 1, 5:15, 5:15] += 120
    np.savez(folder / "crops.npz", image=image, kind=kind, split=np.where(np.arange(24) < 12, "train", "val"))
    config = ResNetConfig(channels_in=1, width=4, stem_stride=2)
    module = learn(config, torch.from_numpy(image / np.float32(255))[:, None], torch.from_numpy(kind))
    return checkpoint(
        folder, config, module, folder / "crops.npz", task="classification", tile=(20, 20), decoder=ClassOf()
    )


def test_maps_of_classes_are_verified_by_dice(semantic: Path, tmp_path: Path) -> None:
    spec = export_checkpoint(semantic, tmp_path / "a.onnx", ("fp32",), None, lambda line: None)
    assert all(p.passed and p.dice is not None and p.dice >= 0.995 and p.pictures == 2 for p in spec.parity)
    assert max(p.max_difference for p in spec.parity) < 1e-3
    assert spec.halo <= tuple(spec.receptive_field[i] + spec.divisor[i] for i in range(2))


def test_classes_of_crops_are_verified_by_the_share_that_stays(classifier: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    spec = export_checkpoint(classifier, tmp_path / "a.onnx", ("fp32",), None, lines.append)
    assert all(p.passed and p.same_class == 1.0 and p.pictures == 12 for p in spec.parity)
    assert any("accuracy" in line for line in lines)
    assert any("same class 100.00 %" in line for line in lines)
    assert spec.halo == (0, 0)


@pytest.mark.parametrize("name", ["semantic", "classifier"])
def test_a_graph_that_answers_otherwise_leaves_no_file(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is real: the exported graph has its two classes swapped."""
    path: Path = request.getfixturevalue(name)
    honest = room.to_onnx

    def swap(module: torch.nn.Module, spec: ModelSpec) -> Any:
        class Swapped(torch.nn.Module):
            def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
                return {"classes": module(image)["classes"].flip(1)}

        return honest(Swapped().eval(), spec)

    monkeypatch.setattr(room, "to_onnx", swap)
    with pytest.raises(ModelError, match="no file was written"):
        export_checkpoint(path, tmp_path / "a.onnx", ("fp32",), None, lambda line: None)
    assert list(tmp_path.iterdir()) == []
