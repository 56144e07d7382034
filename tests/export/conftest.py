"""A small network that has seen a few cells, and its checkpoint, as `cellengine train` leaves one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cellengine.models import UNetConfig, build
from cellengine.models.checkpoint import save_checkpoint
from cellengine.records import to_plain
from cellengine.spec import DistanceWatershed, ModelSpec, Normalize, Output
from tests.synthetic import draw_cells, write_annotated

CONFIG = UNetConfig(channels_in=1, widths=(6, 8, 8))


@pytest.fixture(scope="session")
def module() -> Any:
    """A network that has seen a few cells, enough to answer with objects."""
    torch.manual_seed(3)
    net = build(CONFIG)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for step in range(60):
        image, labels = draw_cells((64, 64), 8, seed=step % 6)
        batch = torch.from_numpy(image / np.float32(255))[None, None]
        truth = torch.from_numpy((labels > 0).astype(np.float32))[None, None]
        loss = sum(torch.nn.functional.binary_cross_entropy_with_logits(x, truth) for x in net.logits(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def spec_of(config: UNetConfig) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        task="instances",
        axes="YX",
        channels=("signal",),
        tile=(64, 64),
        divisor=config.divisor,
        receptive_field=config.receptive_field,
        halo=(24, 24),
        normalize=Normalize("constant", 0.0, 255.0),
        outputs=(Output("foreground"), Output("distance")),
        decoder=DistanceWatershed(smoothing_px=1.0, h=0.2, min_size_px=8),
    )


@pytest.fixture(scope="session")
def checkpoint(module: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    state = {
        "model": module.state_dict(),
        "network": json.dumps(to_plain(CONFIG)),
        "spec": spec_of(CONFIG).to_json(),
        "data": str(write_annotated(folder / "data", 12)),
    }
    save_checkpoint(folder / "best.pt", state)
    return folder / "best.pt"
