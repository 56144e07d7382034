"""The tile of a volume: valid, within its memory, and hardly more work than with the best of all tiles."""

from __future__ import annotations

from itertools import product
from math import ceil, prod
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellengine.engine.options import InferOptions
from cellengine.engine.plan import TILE_SHARE, plan_picture
from tests.engine.conftest import small_spec

DIVISOR = (2, 4, 4)


def session(halo: tuple[int, ...], backend: str = "onnxruntime") -> Any:
    spec = small_spec(
        axes="ZYX", tile=(8, 16, 16), divisor=DIVISOR, halo=halo, receptive_field=halo, activation_bytes=1000.0
    )
    return SimpleNamespace(spec=spec, backend=backend, precision="fp32", device="cpu", concurrency=2)


@given(
    shape=st.tuples(*[st.integers(1, 60)] * 3),
    halo=st.tuples(*[st.integers(0, 6)] * 3),
    megabytes=st.integers(1, 4000),
)
@settings(max_examples=30, deadline=None)
def test_the_tile_of_a_volume(shape: tuple[int, ...], halo: tuple[int, ...], megabytes: int) -> None:
    opened = session(halo)
    plan = plan_picture(shape, opened, InferOptions(max_ram=megabytes << 20))
    for side, margin, divisor in zip(plan.tile, plan.halo, DIVISOR, strict=True):
        assert side % divisor == 0
        assert side >= 2 * margin + divisor
    # activations, and per thread the batch (channels) and twice the answers, in float32
    arrays = 8 * (len(opened.spec.channels) + 2 * sum(output.channels for output in opened.spec.outputs))
    fitting = TILE_SHARE * (megabytes << 20) / (1.3 * opened.spec.activation_bytes + arrays)

    def work(tile: tuple[int, ...]) -> int:
        return prod(ceil(n / (s - 2 * h)) * s for n, s, h in zip(shape, tile, plan.halo, strict=True))

    sides = [
        range(2 * h + d, 2 * h + (n + d - 1) // d * d + 1, d) for n, h, d in zip(shape, plan.halo, DIVISOR, strict=True)
    ]
    possible = [tile for tile in product(*sides) if prod(tile) <= fitting]
    assert plan.tiled_voxels == work(plan.tile)
    if possible:
        assert prod(plan.tile) <= fitting
        assert plan.tiled_voxels <= 1.15 * min(map(work, possible))
    else:
        assert prod(plan.tile) == min(prod(tile) for tile in product(*sides))


def test_an_engine_takes_no_larger_tile_than_the_model() -> None:
    plan = plan_picture((64, 64, 64), session((2, 4, 4), "tensorrt"), InferOptions())
    assert plan.tile == (8, 16, 16)
    assert prod(plan_picture((64, 64, 64), session((2, 4, 4)), InferOptions()).tile) > 8 * 16 * 16


@pytest.mark.parametrize("length", [100_000])
def test_a_long_axis_is_planned_in_no_time(length: int) -> None:
    plan = plan_picture((length, 40, 40), session((2, 4, 4)), InferOptions(max_ram=1 << 30))
    assert plan.tile[1:] == (48, 48)
