"""Training goes on from an exported model: BatchNorm is unfolded, and the network answers as the file does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from cellengine.engine.golden import golden_input, golden_tile, make_golden
from cellengine.errors import ModelError
from cellengine.export.graph import to_onnx, with_metadata
from cellengine.models import UNetConfig, build
from cellengine.spec import Detections, ModelSpec
from cellengine.train.start import start_from
from cellengine.zoo import bundled
from tests.models.detector import TINY, detector
from tests.models.test_families import FAMILIES, spec_of


class Noise(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Samples as training sees them: an image first."""

    def __init__(self, channels: int, sides: tuple[int, ...]) -> None:
        self.channels, self.sides = channels, sides

    def __getitem__(self, number: int) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(number)
        return (torch.randn(self.channels, *self.sides, generator=generator) + 0.5,)


def wake(module: torch.nn.Module) -> torch.nn.Module:
    """Statistics, scales and shifts as training leaves them, none of them 0 or 1; the exporter shares equal tensors."""
    for weights in module.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.1)
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.weight.data.uniform_(0.5, 2.0)
            part.bias.data.normal_(0, 0.3)
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2.0)
    return module.eval()


def answers(module: torch.nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        return {name: value.numpy() for name, value in module.eval()(torch.from_numpy(image)).items()}


def write(module: torch.nn.Module, spec: ModelSpec, path: Path, tile: tuple[int, ...]) -> Path:
    channels = len(spec.channels)
    golden = make_golden(answers(module, golden_input(channels, tile)), channels, tile)
    path.write_bytes(with_metadata(to_onnx(module, spec), spec, golden))
    return path


@pytest.mark.parametrize("name", ["unet-2d", "unet-3d", "hourglass-norm", "resnet"])
def test_a_network_of_every_family_comes_back(name: str, tmp_path: Path) -> None:
    config, task = FAMILIES[name]
    torch.manual_seed(1)
    module = wake(build(config))
    spec = spec_of(config, task)
    path = write(module, spec, tmp_path / "model.onnx", golden_tile(config.divisor))
    again, lines = build(config), []
    samples = Noise(config.channels_in, golden_tile(config.divisor))
    start_from(again, path, samples, lines.append)
    assert len(lines) == 1, lines  # nothing is left out
    image = samples[99][0][None].numpy()
    for output, wanted in answers(module, image).items():
        np.testing.assert_allclose(answers(again, image)[output], wanted, atol=2e-5, err_msg=output)


def test_a_detector_comes_back(tmp_path: Path) -> None:
    module = wake(detector())
    module.pixel_mean.fill_(0.31)
    module.pixel_std.fill_(0.17)
    config, base = module.config, spec_of(UNetConfig(channels_in=1), "instances")
    spec = replace(
        base, task="detection", divisor=config.divisor, outputs=config.outputs, decoder=Detections(), classes=("cell",)
    )
    path = write(module, spec, tmp_path / "model.onnx", (64, 96))
    again, lines = detector(TINY, seed=5), []
    start_from(again, path, Noise(1, (64, 96)), lines.append)
    assert len(lines) == 1, lines  # mean and deviation of pixels, which the file does not name, are found
    torch.testing.assert_close(again.pixel_mean, module.pixel_mean)
    torch.testing.assert_close(again.pixel_std, module.pixel_std)
    image = golden_input(1, (64, 96))
    for output, wanted in answers(module, image).items():
        np.testing.assert_allclose(answers(again, image)[output], wanted, atol=1e-3, err_msg=output)


def test_while_training_it_answers_nearly_as_before() -> None:
    """Statistics of a batch take the place of the running ones: without measuring, that would be another network."""
    config = UNetConfig()
    samples: Any = Noise(3, (96, 96))
    module = build(config)
    start_from(module, bundled()["nuclei"], samples, lambda line: None)
    image = torch.stack([samples[i][0] for i in range(8)])
    with torch.inference_mode():
        before = module.eval()(image)["foreground"]
        while_training = module.train()(image)["foreground"]
    assert float(before.std()) > 0.01
    assert float((while_training - before).abs().mean()) < 0.25 * float(before.std())


def test_heads_of_another_task_start_anew(tmp_path: Path) -> None:
    config = UNetConfig(heads=("foreground", "boundary"))
    module, lines = build(config), []
    start_from(module, bundled()["nuclei"], Noise(3, (96, 96)), lines.append)
    assert lines[1] == "left out, they start anew: heads.boundary.weight, heads.boundary.bias"


def test_a_head_that_the_new_network_has_not_is_let_go() -> None:
    """The other answers are those of the file."""
    module, lines = build(UNetConfig(heads=("foreground",))), []
    start_from(module, bundled()["nuclei"], Noise(3, (96, 96)), lines.append)
    assert len(lines) == 1, lines
    whole = build(UNetConfig())
    start_from(whole, bundled()["nuclei"], Noise(3, (96, 96)), lines.append)
    image = golden_input(3, (64, 64))
    np.testing.assert_allclose(answers(module, image)["foreground"], answers(whole, image)["foreground"], atol=2e-5)


def test_what_cannot_be_started_from(tmp_path: Path) -> None:
    module, samples = build(UNetConfig()), Noise(3, (96, 96))
    int8 = bundled()["nuclei"].with_name("nuclei.int8.onnx")
    with pytest.raises(ModelError, match="holds int8 weights; start from the fp32 model"):
        start_from(module, int8, samples, lambda line: None)
    with pytest.raises(ModelError, match="does not fit this network"):
        start_from(build(FAMILIES["resnet"][0]), bundled()["nuclei"], samples, lambda line: None)
    with pytest.raises(ModelError, match=r"another network|does not fit this network"):
        start_from(build(UNetConfig(dims=3)), bundled()["nuclei"], samples, lambda line: None)
    proto = onnx.load(bundled()["nuclei"])
    weight = next(t for t in proto.graph.initializer if t.name.endswith("down.1.0.weight"))
    values = onnx.numpy_helper.to_array(weight).copy()
    weight.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), weight.name))
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="answer otherwise"):
        start_from(module, tmp_path / "other.onnx", samples, lambda line: None)
