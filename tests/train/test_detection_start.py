"""A detector starts from torchvision's weights, under either of their names, as far as they fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cellengine.errors import ModelError
from cellengine.models.checkpoint import load_weights
from cellengine.train.start import take_weights
from tests.models.detector import TINY, detector
from tests.synthetic import draw_cells

PLAIN = replace(TINY, pyramid_norm=False)


def old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As torchvision wrote them before 0.13: the names of the COCO weights that it offers."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("roi_heads.mask_head."):
            _, _, number, _, kind = name.split(".")
            name = f"roi_heads.mask_head.mask_fcn{int(number) + 1}.{kind}"
        elif name.startswith("rpn.head.conv."):
            name = name.replace(".0.0.", ".")
        elif "_blocks." in name:
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        renamed[name] = value
    return renamed


def saved(state: dict[str, torch.Tensor], folder: Path) -> Path:
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


def test_a_checkpoint_of_either_naming_answers_the_same(tmp_path: Path) -> None:
    source = detector(PLAIN, seed=3)
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("pixel_") and "tracked" not in k}
    old = {k: v + 1e-5 if k.endswith("var") else v for k, v in old_names(state).items()}
    assert set(old) != set(state)
    image = torch.from_numpy((draw_cells((48, 80), 9, seed=1)[0] / 255).astype(np.float32))[None, None]
    for given in (state, old):
        module, lines = detector(PLAIN, seed=4), []
        take_weights(module, load_weights(saved(given, tmp_path)), "weights.pth", lines.append)
        assert lines[1] == "left out, they start anew: pixel_mean, pixel_std"
        with torch.inference_mode():
            for name, value in source(image).items():
                torch.testing.assert_close(module(image)[name], value, atol=1e-4, rtol=0)


def test_heads_of_other_classes_are_left_out_and_said_so(tmp_path: Path) -> None:
    source, module, lines = detector(replace(PLAIN, classes=4)), detector(PLAIN, seed=4), []
    take_weights(module, load_weights(saved(source.state_dict(), tmp_path)), "weights.pth", lines.append)
    assert "cls_score" in lines[1]
    assert "fc6" not in lines[1]
    assert torch.equal(module.roi_heads.box_head.fc6.weight, source.roi_heads.box_head.fc6.weight)


def test_a_body_trained_on_imagenet_and_what_does_not_fit(tmp_path: Path) -> None:
    source, module = detector(PLAIN, seed=3), detector(PLAIN, seed=4)
    body = {**source.backbone.body.state_dict(), "fc.weight": torch.zeros(10, 32), "fc.bias": torch.zeros(10)}
    take_weights(module, load_weights(saved(body, tmp_path)), "weights.pth", lambda line: None)
    for name, value in source.backbone.body.state_dict().items():
        assert torch.equal(module.backbone.body.state_dict()[name], value)
    with pytest.raises(ModelError, match="another network"):
        take_weights(module, {"layer.weight": torch.zeros(3)}, "weights.pth", lambda line: None)
