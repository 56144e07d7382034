"""What holds for every network: odd sizes, save and load, one ONNX graph that answers alike, one batch by heart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

from cellengine.errors import ModelError
from cellengine.export.graph import to_onnx
from cellengine.models import (
    FCNConfig,
    HourglassConfig,
    ModelConfig,
    ResNetConfig,
    UNetConfig,
    VGGConfig,
    build,
    read_config,
)
from cellengine.models.checkpoint import load_checkpoint, save_checkpoint
from cellengine.records import to_plain
from cellengine.spec import ArgMax, ClassOf, Components, ModelSpec, Normalize, Task

FAMILIES: dict[str, tuple[ModelConfig, Task]] = {
    "unet-2d": (UNetConfig(channels_in=2, widths=(6, 8, 8)), "instances"),
    "unet-3d": (
        UNetConfig(dims=3, channels_in=1, widths=(6, 8, 8), strides=((1, 2, 2), (2, 2, 2)), heads=("boundary",)),
        "boundary",
    ),
    "unet-classes": (UNetConfig(widths=(6, 8), heads=("classes",), classes=3), "semantic"),
    "fcn-8s": (FCNConfig(widths=(6, 6, 8, 8, 8), convolutions=(1, 1, 1, 1, 1), head_width=8, dropout=0.0), "semantic"),
    "fcn-16s": (
        FCNConfig(stride=16, widths=(6, 6, 8, 8, 8), convolutions=(1, 1, 1, 1, 1), head_width=8, dropout=0.0),
        "semantic",
    ),
    "fcn-32s": (
        FCNConfig(stride=32, widths=(6, 6, 8, 8, 8), convolutions=(1, 1, 1, 1, 1), head_width=8, dropout=0.0),
        "semantic",
    ),
    "hourglass": (HourglassConfig(widths=(6,)), "semantic"),
    "hourglass-norm": (HourglassConfig(widths=(6, 8), norm=True), "semantic"),
    "hourglass-3d": (HourglassConfig(dims=3, channels_in=1, widths=(6, 8), kernel=3, norm=True), "semantic"),
    "vgg": (VGGConfig(channels_in=1, widths=(6, 8), convolutions=(1, 2), hidden=(8,), dropout=0.0), "classification"),
    "resnet": (ResNetConfig(channels_in=1, classes=4, width=8, stem_stride=2), "classification"),
}


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest) -> tuple[ModelConfig, Task, torch.nn.Module]:
    config, task = FAMILIES[request.param]
    torch.manual_seed(1)
    module = build(config)
    for weights in module.parameters():  # layers that start at zero would hide what is wrong
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.1)
    return config, task, module


def spec_of(config: ModelConfig, task: Task) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        task=task,
        axes="ZYX"[3 - config.dims :],
        channels=tuple(f"c{i}" for i in range(config.channels_in)),
        tile=(24,) * config.dims if task == "classification" else tuple(2 * d for d in config.divisor),
        divisor=config.divisor,
        receptive_field=config.receptive_field,
        halo=config.receptive_field,
        normalize=Normalize("minmax"),
        outputs=config.outputs,
        decoder={"semantic": ArgMax(), "classification": ClassOf()}.get(task, Components()),
        classes=tuple(str(i) for i in range(config.outputs[0].channels)),
    )


def sides_of(config: ModelConfig, task: Task, factors: tuple[int, ...]) -> list[int]:
    """Odd where the network takes them; otherwise odd multiples of what it pools by."""
    if task == "classification":
        return [17 + 4 * f for f in factors[: config.dims]]
    return [f * d for f, d in zip(factors, config.divisor, strict=False)]


def test_odd_sizes_and_range(family: Any) -> None:
    config, task, module = family
    sides = sides_of(config, task, (1, 3, 1))
    with torch.inference_mode():
        outputs = module.eval()(torch.randn(2, config.channels_in, *sides))
    assert list(outputs) == [output.name for output in config.outputs]
    for output in config.outputs:
        values = outputs[output.name]
        assert values.shape == (2, output.channels, *([] if task == "classification" else sides))
        assert 0 <= values.min() <= values.max() <= 1
        if output.name == "classes":
            torch.testing.assert_close(values.sum(1), torch.ones_like(values[:, 0]))


def test_saved_and_loaded_it_is_the_same(family: Any, tmp_path: Path) -> None:
    config, task, module = family
    save_checkpoint(tmp_path / "a.pt", {"model": module.state_dict(), "network": json.dumps(to_plain(config))})
    saved = load_checkpoint(tmp_path / "a.pt")
    again = build(read_config(saved["network"], "a.pt"))
    again.load_state_dict(saved["model"])
    image = torch.randn(1, config.channels_in, *sides_of(config, task, (1, 1, 1)))
    with torch.inference_mode():
        for a, b in zip(module.eval()(image).values(), again.eval()(image).values(), strict=True):
            assert torch.equal(a, b)


def test_the_exported_graph_answers_alike_at_any_size(family: Any) -> None:
    config, task, module = family
    proto = to_onnx(module.eval(), spec_of(config, task))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, factors in ((1, (1, 1, 1)), (3, (3, 1, 2))):
        image = torch.randn(batch, config.channels_in, *sides_of(config, task, factors))
        with torch.inference_mode():
            expected = module(image)
        found = session.run(None, {"image": image.numpy()})
        for values, (name, wanted) in zip(found, expected.items(), strict=True):
            np.testing.assert_allclose(values, wanted.numpy(), atol=2e-5, err_msg=name)


def test_it_learns_one_batch_by_heart(family: Any) -> None:
    config, task, _ = family
    torch.manual_seed(2)
    module = build(config).train()
    sides = sides_of(config, task, (2, 2, 2))
    image = torch.randn(4, config.channels_in, *sides)
    classes = config.outputs[0].channels
    if task == "classification":
        truth = torch.arange(4) % classes
    else:
        smooth = torch.nn.functional.avg_pool3d if config.dims == 3 else torch.nn.functional.avg_pool2d
        level = smooth(image[:, :1], 3, 1, 1)[:, 0]
        truth = (level > 0).long()
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    losses = []
    for _ in range(90):
        logits = module.logits(image)
        if task in ("semantic", "classification"):
            loss = torch.nn.functional.cross_entropy(logits["classes"], truth)
        else:
            loss = sum(torch.nn.functional.binary_cross_entropy_with_logits(x[:, 0], truth.float())
                       for x in logits.values())  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    coarse = config.kind == "fcn"  # scores 8 or 32 px apart cannot follow single px
    assert losses[-1] < (0.97 if coarse else 0.7) * losses[0], losses[::10]


def test_heads_are_where_the_network_says(family: Any) -> None:
    _, _, module = family
    names = [name for name, _ in module.named_parameters()]
    for start in module.HEADS:
        assert any(name.startswith(start) for name in names)
    assert any(not name.startswith(module.HEADS) for name in names)


REACHING: dict[str, ModelConfig] = {
    "hourglass": HourglassConfig(channels_in=1, widths=(3, 3), kernel=3, classes=2),
    "fcn-8s": FCNConfig(channels_in=1, widths=(2,) * 5, convolutions=(1,) * 5, head_width=2, head_kernel=1, classes=2),
    "fcn-16s": FCNConfig(
        channels_in=1, widths=(2,) * 5, convolutions=(1,) * 5, head_width=2, head_kernel=1, classes=2, stride=16
    ),
}


@pytest.mark.parametrize("name", REACHING)
def test_the_receptive_field_is_exact(name: str) -> None:
    """Gradients reach exactly as far as the configuration says, at the worst position of the pooling grid."""
    config = REACHING[name]
    torch.manual_seed(0)
    module = build(config).double().eval()
    for weights in module.parameters():  # positive, so that no ReLU hides what it depends on
        weights.data.uniform_(0.1, 1.0)
    for parent in list(module.modules()):  # a maximum passes one of its inputs on, a mean all
        for child_name, child in parent.named_children():
            if isinstance(child, torch.nn.MaxPool2d):
                setattr(parent, child_name, torch.nn.AvgPool2d(child.kernel_size))
    reach, divisor = config.receptive_field[0], config.divisor[0]
    side = 2 * (-(-reach // divisor) + 1) * divisor + divisor
    worst = 0
    for shift in range(divisor):
        at = side // divisor // 2 * divisor + shift
        image = torch.rand(1, 1, side, divisor, dtype=torch.double, requires_grad=True)
        module.logits(image)["classes"][0, 0, at, 0].backward()
        assert image.grad is not None
        used = (image.grad[0, 0].abs().sum(1) > 0).nonzero()[:, 0]
        worst = max(worst, at - int(used.min()), int(used.max()) - at)
    assert worst == reach


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(ModelError, match=r"a\.pt: its network is not known here .*'transformer'"):
        read_config('{"kind": "transformer"}', "a.pt")


def test_a_resnet_takes_torchvision_names() -> None:
    """The parameters of torchvision's resnet18, by name and shape, but for those of its 1000 classes."""
    body = build(ResNetConfig(width=64)).body.state_dict()
    assert body["conv1.weight"].shape == (64, 3, 7, 7)
    assert body["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert body["layer4.1.bn2.running_var"].shape == (512,)
    assert len([name for name in body if not name.endswith("num_batches_tracked")]) == 100
