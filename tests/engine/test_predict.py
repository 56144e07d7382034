"""Tiles to scores: the whole picture and any tiling of it give the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellengine.engine.backends import open_session
from cellengine.engine.flow import Stop
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import plan_picture
from cellengine.engine.predict import SCORE_STEPS, predict, quantise, read_scaled, reflect
from cellengine.engine.scale import measure_scene
from cellengine.engine.scene import Scene, scenes
from cellengine.engine.session import Session
from cellengine.geometry import Region
from cellengine.io import MemorySource
from cellengine.ops.normalize import Scale
from tests.synthetic import draw_cells


def scores_of(picture: np.ndarray, session: Session, options: InferOptions) -> dict[str, np.ndarray]:
    scene = scenes(MemorySource(picture), session.spec, options)[0]
    plan = plan_picture(scene.shape, session, options)
    scale = measure_scene(scene, session.spec.normalize).scale
    return predict(scene, session, plan, scale, Stop(), lambda tiles: None)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("tile", [(64, 64), (72, 100), (128, 60)])
def test_tiled_equals_whole(small_model: Any, backend: str, tile: tuple[int, int]) -> None:
    picture, _ = draw_cells((150, 203), 40, seed=1)
    with open_session(small_model.path, device="cpu", backend=backend, precision="fp32") as session:
        whole = scores_of(picture, session, InferOptions(tile=(208, 256), halo="exact"))
        tiled = scores_of(picture, session, InferOptions(tile=tile, halo="exact", batch=2))
    for name in whole:
        difference = np.abs(whole[name].astype(int) - tiled[name].astype(int)).max() / SCORE_STEPS
        assert difference <= 1e-4
        assert whole[name].std() > 100  # the network says something: a constant would be equal too


def test_a_halo_that_is_too_small_shows(small_model: Any) -> None:
    """The comparison above can fail: without a halo the tiles' borders differ."""
    picture, _ = draw_cells((150, 203), 40, seed=1)
    with open_session(small_model.path, device="cpu", backend="onnxruntime", precision="fp32") as session:
        whole = scores_of(picture, session, InferOptions(tile=(208, 256), halo="exact"))
        tiled = scores_of(picture, session, InferOptions(tile=(64, 64), halo=0))
    difference = max(np.abs(whole[n].astype(int) - tiled[n].astype(int)).max() for n in whole) / SCORE_STEPS
    assert difference > 1e-3


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    start=st.tuples(st.integers(-25, 12), st.integers(-25, 12)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.sampled_from([(0,), (0, 0, 0), (0, 1), (1, 0, 1)]),
)
def test_reading_outside_reflects_as_numpy_pads(
    shape: tuple[int, int], start: tuple[int, int], size: tuple[int, int], channels: tuple[int, ...]
) -> None:
    image = np.arange(2 * shape[0] * shape[1], dtype=np.uint16).reshape(2, *shape)
    scene = Scene(MemorySource(image, "CYX"), "YX", {}, channels)
    region = Region(start, tuple(a + n for a, n in zip(start, size, strict=True)))
    out = np.empty((len(channels), *size), np.float32)
    read_scaled(scene, region, Scale((1.0,) * len(channels), (0.5,) * len(channels)), out)
    padded = np.pad(image, [(0, 0), (60, 60), (60, 60)], mode="reflect")
    cut = tuple(slice(60 + a, 60 + a + n) for a, n in zip(start, size, strict=True))
    expected = (padded[(list(channels), *cut)].astype(np.float32) - 1) * 0.5
    np.testing.assert_array_equal(out, expected)


@given(st.integers(1, 12), st.integers(-40, 40))
def test_reflect_matches_walking_back_and_forth(length: int, position: int) -> None:
    at, step = 0, 1
    for _ in range(abs(position)):
        if length == 1:
            break
        if at + step in (-1, length):
            step = -step
        at += step
    assert reflect(np.array([position]), length)[0] == at


def test_scores_are_rounded_and_clipped() -> None:
    values = np.array([[[-0.5, 0.0, 0.5 / SCORE_STEPS, 0.25, 1.0, 7.0]]], np.float32)
    out = np.empty(values.shape, np.uint16)
    quantise(values, out)
    assert out.ravel().tolist() == [0, 0, 1, 16384, SCORE_STEPS, SCORE_STEPS]


def test_progress_counts_every_tile(write_tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.onnx")
    picture, _ = draw_cells((100, 90), 5, seed=2)
    done: list[int] = []
    with open_session(path, device="cpu", backend="onnxruntime", precision="fp32") as session:
        scene = scenes(MemorySource(picture), session.spec, InferOptions())[0]
        plan = plan_picture(scene.shape, session, InferOptions(tile=(64, 64), batch=3))
        predict(scene, session, plan, measure_scene(scene, session.spec.normalize).scale, Stop(), done.append)
    assert sum(done) == len(plan.tiles) == 9
