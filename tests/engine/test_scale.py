"""The scale of a picture: one for the whole of it, the same however it is read."""

from __future__ import annotations

import numpy as np
import pytest

from cellengine.engine import scale as room
from cellengine.engine.scale import measure_scale, measure_scene
from cellengine.engine.scene import Scene
from cellengine.io import MemorySource
from cellengine.spec import Normalize

IMAGE = np.random.default_rng(0).integers(0, 4000, (3, 40, 50)).astype(np.uint16)


@pytest.mark.parametrize("method", ["percentile", "zscore", "minmax"])
def test_the_whole_picture_decides(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Normalize(method, 1.0, 99.0)  # type: ignore[arg-type]
    scene = Scene(MemorySource(IMAGE, "CYX"), "YX", {}, (2, 0, 2))
    whole = measure_scene(scene, config)
    monkeypatch.setattr(room, "BLOCK_VOXELS", 130)
    assert measure_scene(scene, config).scale == whole.scale
    expected = {
        "percentile": lambda c: (np.percentile(c, 1), np.percentile(c, 99) - np.percentile(c, 1)),
        "zscore": lambda c: (c.mean(), c.std()),
        "minmax": lambda c: (c.min(), np.ptp(c)),
    }[method]
    for channel, offset, factor in zip((2, 0, 2), whole.scale.offset, whole.scale.factor, strict=True):
        low, width = expected(IMAGE[channel].astype(float))
        assert offset == pytest.approx(low)
        assert factor == pytest.approx(1 / width)


def test_a_few_bright_pixels_on_a_flat_background_still_show() -> None:
    image = np.full((1, 100, 100), 7, np.uint8)
    image[0, 50, 50:53] = 200
    scale = measure_scale(lambda: [image], 1, image.dtype, Normalize("percentile", 1.0, 99.8)).scale
    assert (scale.offset, scale.factor) == ((7.0,), (pytest.approx(1 / 193),))


def test_constant_and_broken_pictures_are_noticed() -> None:
    constant = np.full((1, 9, 9), 5, np.uint16)
    assert measure_scale(lambda: [constant], 1, constant.dtype, Normalize("percentile", 1.0, 99.8)).constant
    broken = np.ones((1, 9, 9), np.float32)
    broken[0, 0, :3] = np.nan, np.inf, -np.inf
    found = measure_scale(lambda: [broken], 1, broken.dtype, Normalize("minmax"))
    assert found.not_finite == 3


def test_channels_can_share_a_scale() -> None:
    found = measure_scale(lambda: [IMAGE], 3, IMAGE.dtype, Normalize("minmax", per_channel=False))
    assert len(set(found.scale.factor)) == 1
