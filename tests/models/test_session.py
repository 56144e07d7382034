"""What a torch session owes to the training that it runs in; the rest is the suite in tests/engine/test_sessions.py."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cellengine.models import UNetConfig, build
from cellengine.models.session import TorchSession
from cellengine.spec import Components, ModelSpec, Normalize, Output

SPEC = ModelSpec(
    name="tiny",
    task="instances",
    axes="YX",
    channels=("gray",),
    tile=(16, 16),
    divisor=(2, 2),
    receptive_field=(9, 9),
    halo=(9, 9),
    normalize=Normalize("minmax"),
    outputs=(Output("foreground"),),
    decoder=Components(),
)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build(UNetConfig(channels_in=1, widths=(4, 8), heads=("foreground",)))


def picture() -> np.ndarray:
    return np.random.default_rng(0).random((2, 1, 16, 16), dtype=np.float32)


def test_the_mode_of_every_part_is_given_back() -> None:
    module = network().train()
    module.down[0].eval()
    before = {name: part.training for name, part in module.named_modules()}
    statistics = {name: value.clone() for name, value in module.state_dict().items()}
    TorchSession(module, SPEC).run(picture())
    assert {name: part.training for name, part in module.named_modules()} == before
    assert all((value == statistics[name]).all() for name, value in module.state_dict().items())


def test_the_mode_is_given_back_after_an_error_too() -> None:
    module = network().train()
    module.heads["foreground"] = torch.nn.Conv2d(99, 1, 1)
    with pytest.raises(RuntimeError):
        TorchSession(module, SPEC).run(picture())
    assert module.training


def test_answers_with_the_weights_of_the_moment() -> None:
    module = network()
    session = TorchSession(module, SPEC)
    before = session.run(picture())["foreground"]
    with torch.no_grad():
        module.heads["foreground"].bias += 1.0
    assert (session.run(picture())["foreground"] > before).all()


def test_gradients_still_flow_afterwards() -> None:
    module = network().train()
    TorchSession(module, SPEC).run(picture())
    module(torch.from_numpy(picture()))["foreground"].sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
