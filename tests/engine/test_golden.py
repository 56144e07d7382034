"""The golden test: the same input everywhere, and a verdict that tells a right computation from a wrong one."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellengine.engine.backends import BACKENDS
from cellengine.engine.golden import (
    SAMPLES,
    Golden,
    check_golden,
    golden_input,
    golden_tile,
    make_golden,
    sample_positions,
)
from cellengine.engine.model_file import read_model_file
from cellengine.errors import ModelError

OUTPUTS = {"foreground": golden_input(1, (96, 96)), "boxes": 300 * golden_input(1, (10, 4))[0]}


class Answers:
    """A session whose answer is given: what is tested is the comparison, not a runtime."""

    def __init__(self, outputs: dict[str, np.ndarray], precision: str = "fp32") -> None:
        self.outputs, self.precision = outputs, precision

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return self.outputs


def slow_noise(*numbers: int) -> int:
    mixed = 0
    for number in numbers:
        mixed = ((mixed ^ (mixed >> 15)) + number + 1) * 2654435761 % 2**32
    return mixed >> 24


@pytest.mark.parametrize(("channels", "tile"), [(1, (9, 17)), (3, (16, 8)), (2, (5, 9, 10))])
def test_the_input_follows_its_formula(channels: int, tile: tuple[int, ...]) -> None:
    picture = golden_input(channels, tile)
    assert picture.shape == (1, channels, *tile)
    for c, *position in np.ndindex(channels, *tile):
        block = [p // 8 for p in position]
        total = 2 * slow_noise(*block) + slow_noise(*block, c) + slow_noise(*position, c)
        assert picture[(0, c, *position)] == np.float32(total) / np.float32(1020)


def test_the_input_never_changes() -> None:
    picture = golden_input(3, (64, 64))
    assert hashlib.sha256(picture.astype("<f4").tobytes()).hexdigest()[:16] == "3419ef9e802e3f45"
    assert 0.3 < picture.mean() < 0.7
    assert picture.std() > 0.1


@given(st.lists(st.sampled_from([1, 2, 4, 8, 16, 12]), min_size=2, max_size=3))
def test_the_tile_suits_the_divisor(divisor: list[int]) -> None:
    tile = golden_tile(tuple(divisor))
    assert all(t % d == 0 and t >= 32 for t, d in zip(tile, divisor, strict=True))


@given(st.integers(0, 1 << 40))
@settings(deadline=None)
def test_samples_lie_inside(size: int) -> None:
    positions = sample_positions(size)
    assert len(positions) == min(size, SAMPLES)
    assert size == 0 or (positions.min() >= 0 and positions.max() < size)


def test_survives_the_file() -> None:
    golden = make_golden(OUTPUTS, 3, (96, 96))
    assert Golden.from_json(golden.to_json(), "here") == golden
    assert check_golden(Answers(OUTPUTS), golden).passed
    assert check_golden(Answers(OUTPUTS), golden).largest == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d | {"golden_version": 2},
        lambda d: d | {"more": 1},
        lambda d: d | {"outputs": {"foreground": d["outputs"]["foreground"] | {"values": "AAAA"}}},
        lambda d: d | {"outputs": {"foreground": d["outputs"]["foreground"] | {"values": "ä"}}},
        lambda d: d | {"outputs": {"foreground": d["outputs"]["foreground"] | {"shape": [1, 1, 5, 5]}}},
        lambda d: [],
    ],
)
def test_damaged_text_is_a_bad_model(change: Any) -> None:
    text = make_golden(OUTPUTS, 3, (96, 96)).to_json()
    with pytest.raises(ModelError, match="here: its golden test"):
        Golden.from_json(json.dumps(change(json.loads(text))), "here")
    with pytest.raises(ModelError):
        Golden.from_json(text[:-10], "here")


def test_every_difference_is_seen() -> None:
    golden = make_golden(OUTPUTS, 3, (96, 96))
    rng = np.random.default_rng(0)

    def verdict(**changed: np.ndarray) -> Any:
        return check_golden(Answers({**OUTPUTS, **changed}), golden)

    noise = rng.normal(0, 0.01, (1, 1, 96, 96)).astype(np.float32)
    assert not verdict(foreground=OUTPUTS["foreground"] + noise).passed
    assert not verdict(foreground=OUTPUTS["foreground"] + np.float32(2e-4)).passed
    assert verdict(boxes=OUTPUTS["boxes"] + np.float32(1e-3)).passed, "1e-3 px of 300 px are nothing"
    assert "expected (1, 1, 96, 96)" in verdict(foreground=OUTPUTS["foreground"][:, :, 1:]).problem
    broken = OUTPUTS["foreground"].copy()
    broken[0, 0, 5, 5] = np.nan
    assert "not finite" in verdict(foreground=broken).problem
    assert "nothing" in check_golden(Answers({"boxes": OUTPUTS["boxes"]}), golden).problem
    bf16 = Answers({**OUTPUTS, "foreground": OUTPUTS["foreground"] + noise}, "bf16")
    assert check_golden(bf16, golden).passed, "what fp32 may not do, bf16 may"


def test_nan_cannot_become_golden() -> None:
    with pytest.raises(ValueError, match="not finite"):
        make_golden({"foreground": np.full((1, 1, 4, 4), np.nan, np.float32)}, 1, (4, 4))


def test_tells_bf16_from_fp32(small_model: Any) -> None:
    file = read_model_file(small_model.path)
    backend = BACKENDS["openvino"]()
    if "bf16" not in backend.precisions("cpu"):
        pytest.skip("this processor has no bf16 instructions")
    assert file.golden is not None
    with backend.open(file, "cpu", "bf16", 1) as session:
        assert check_golden(session, file.golden).passed
        session.precision = "fp32"  # as if a runtime had computed in bf16 and said fp32
        assert not check_golden(session, file.golden).passed
