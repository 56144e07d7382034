"""A VGG of torchvision, with or without BatchNorm, starts trunks made like it; grey pictures take colour kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cellengine.models import FCN, VGG, FCNConfig, ResNetConfig, VGGConfig, build
from cellengine.models.detection.resnet import ResNet
from cellengine.train.start import start_from, take_weights

WIDTHS = (4, 6, 8, 10, 10)
CONVOLUTIONS = (2, 2, 3, 3, 3)


class Noise(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Samples as training sees them: an image first."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __getitem__(self, number: int) -> tuple[torch.Tensor, ...]:
        return (torch.randn(self.channels, 64, 64, generator=torch.Generator().manual_seed(number)) + 0.5,)


def torchvision_vgg16(norm: bool, widths: tuple[int, ...] = WIDTHS, hidden: int = 12) -> torch.nn.Module:
    """torchvision's `vgg16` or `vgg16_bn` layer by layer, so that its parameters have the same names and places."""
    torch.manual_seed(3)
    layers: list[torch.nn.Module] = []
    channels = 3
    for width, count in zip(widths, CONVOLUTIONS, strict=True):
        for _ in range(count):
            layers += [torch.nn.Conv2d(channels, width, 3, padding=1)]
            layers += [torch.nn.BatchNorm2d(width)] if norm else []
            layers += [torch.nn.ReLU(inplace=True)]
            channels = width
        layers += [torch.nn.MaxPool2d(2, 2)]
    classifier = torch.nn.Sequential(
        torch.nn.Linear(channels * 49, hidden), torch.nn.ReLU(), torch.nn.Dropout(),
        torch.nn.Linear(hidden, hidden), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(hidden, 10),
    )  # fmt: skip
    module = torch.nn.Module()
    module.features, module.classifier = torch.nn.Sequential(*layers), classifier
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.weight.data.uniform_(0.5, 2.0)
            part.bias.data.normal_(0, 0.3)
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2.0)
    return module.eval()


def started(module: torch.nn.Module, source: torch.nn.Module, folder: Path, channels: int = 3) -> list[str]:
    lines: list[str] = []
    torch.save(source.state_dict(), folder / "vgg16.pth")
    start_from(module, folder / "vgg16.pth", Noise(channels), lines.append)
    module.eval()
    return lines


def trunk_of_fcn(module: FCN, image: torch.Tensor) -> torch.Tensor:
    for block in module.trunk:
        image = module.pool(block(image))
    return image


def fcn(**changes: Any) -> FCN:
    torch.manual_seed(4)
    settings = {"widths": WIDTHS, "convolutions": CONVOLUTIONS, "head_width": 12, "dropout": 0.0} | changes
    module = build(FCNConfig(**settings))
    assert isinstance(module, FCN)
    return module


@pytest.mark.parametrize("norm", [True, False])
@torch.inference_mode()
def test_the_trunk_of_an_fcn_answers_as_the_vgg_that_it_starts_from(norm: bool, tmp_path: Path) -> None:
    source, module = torchvision_vgg16(norm), fcn()
    lines = started(module, source, tmp_path)
    image = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(trunk_of_fcn(module, image), source.features(image), atol=1e-4, rtol=1e-4)
    assert lines[0] == "vgg16.pth: 69 of 75 tensors are taken as a start"
    scores = [f"score.{name}.{kind}" for name in ("pool3", "pool4", "head") for kind in ("weight", "bias")]
    assert lines[1] == f"left out, they start anew: {', '.join(scores)}"


@torch.inference_mode()
def test_fully_connected_layers_become_the_head_of_an_fcn(tmp_path: Path) -> None:
    """On a map of 7 x 7 the middle of the head sees what the classifier sees."""
    source, module = torchvision_vgg16(norm=True), fcn()
    started(module, source, tmp_path)
    features = torch.rand(2, 10, 7, 7)
    hidden = source.classifier[:5](features.flatten(1))
    torch.testing.assert_close(module.head(features)[:, :, 3, 3], hidden, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", [True, False])
@torch.inference_mode()
def test_the_trunk_of_the_classifier_is_that_of_the_vgg_less_a_block(norm: bool, tmp_path: Path) -> None:
    source = torchvision_vgg16(norm)
    module = build(VGGConfig(widths=WIDTHS[:4], convolutions=CONVOLUTIONS[:4], hidden=(8,)))
    assert isinstance(module, VGG)
    lines = started(module, source, tmp_path)
    poolings = [i for i, part in enumerate(source.features) if isinstance(part, torch.nn.MaxPool2d)]
    image = torch.randn(2, 3, 48, 64)
    expected = source.features[: poolings[3]](image)
    torch.testing.assert_close(module.trunk(image), expected, atol=1e-4, rtol=1e-4)
    assert lines[0] == "vgg16.pth: 50 of 54 tensors are taken as a start"
    assert "left out, they start anew: fc.0.weight, fc.0.bias, fc.3.weight, fc.3.bias" in lines


def test_norms_that_the_file_lacks_are_measured(tmp_path: Path) -> None:
    """While training, when statistics of the batch take their place, the trunk answers nearly as before."""
    source, module = torchvision_vgg16(norm=False), fcn()
    assert "it has no BatchNorm" in started(module, source, tmp_path)[-1]
    image = torch.stack([Noise(3)[i][0] for i in range(8)])
    with torch.inference_mode():
        before = trunk_of_fcn(module.eval(), image)
        while_training = trunk_of_fcn(module.train(), image)
    assert float((while_training - before).abs().mean()) < 0.25 * float(before.std())


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_at_full_width_all_shapes_are_those_of_torchvision() -> None:
    with torch.device("meta"):
        source = torchvision_vgg16(norm=True, widths=(64, 128, 256, 512, 512), hidden=4096)
        module = build(FCNConfig(widths=(64, 128, 256, 512, 512), head_width=4096))
    lines: list[str] = []
    take_weights(module, source.state_dict(), "vgg16_bn.pth", lines.append)
    assert lines[0] == "vgg16_bn.pth: 69 of 75 tensors are taken as a start"
    weights = source.state_dict()
    assert weights["features.40.weight"].shape == (512, 512, 3, 3)
    assert weights["classifier.0.weight"].shape == (4096, 25088)


def test_what_is_narrower_is_left_out_and_named(tmp_path: Path) -> None:
    module = fcn(widths=(4, 6, 8, 10, 7), head_width=5)
    lines = started(module, torchvision_vgg16(norm=True), tmp_path)
    assert lines[0] == "vgg16.pth: 50 of 75 tensors are taken as a start"
    assert lines[1].startswith("left out, they start anew: trunk.4.0.weight, trunk.4.1.weight")
    assert lines[1].endswith(" and 19 more")


@pytest.mark.parametrize("norm", [True, False])
@torch.inference_mode()
def test_a_grey_picture_gives_a_vgg_what_its_repetition_over_the_colours_gives(norm: bool, tmp_path: Path) -> None:
    source, module = torchvision_vgg16(norm), fcn(channels_in=1)
    lines = started(module, source, tmp_path, channels=1)
    assert lines[0] == "vgg16.pth: 69 of 75 tensors are taken as a start"
    assert lines[1] == "for grey pictures the kernels of trunk.0.0.weight are summed over the colours"
    grey = torch.randn(2, 1, 64, 64)
    expected = source.features(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(trunk_of_fcn(module, grey), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_grey_picture_gives_a_resnet_what_its_repetition_over_the_colours_gives() -> None:
    source = ResNet(ResNetConfig(width=4)).eval()
    module = build(ResNetConfig(channels_in=1, width=4)).eval()
    lines: list[str] = []
    take_weights(module, source.state_dict(), "resnet18.pth", lines.append)
    assert "left out, they start anew: fc.weight, fc.bias" in lines
    grey = torch.randn(2, 1, 40, 56)
    for found, expected in zip(module.body(grey), source(grey.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
