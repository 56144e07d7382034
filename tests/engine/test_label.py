"""Scores to labels through the decoder of a spec: volumes, voxels that are longer than wide, and neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from scipy import ndimage
from scipy.spatial import cKDTree

from cellengine.engine.backends import open_session
from cellengine.engine.flow import Stop
from cellengine.engine.infer import infer_source
from cellengine.engine.label import label
from cellengine.engine.options import InferOptions
from cellengine.engine.predict import SCORE_STEPS
from cellengine.engine.run import Progress
from cellengine.engine.stream import stream_source
from cellengine.errors import ModelError
from cellengine.geometry import Region
from cellengine.io import MemorySource, open_source
from cellengine.metrics import evaluate_instances
from cellengine.ops import boundary_watershed, distance_watershed
from cellengine.spec import (
    INPUT_NAME,
    METADATA_KEY,
    BoundaryWatershed,
    ClassOf,
    Components,
    DistanceWatershed,
    Normalize,
    Output,
)
from tests.engine.blobs import blob_spec

Array = np.ndarray[Any, Any]
VOXEL = (4.0, 1.0, 1.0)
"""each voxel four times as long as wide"""


def steps(values: Array) -> Array:
    """As `predict` keeps scores: (1, *spatial)."""
    return np.rint(values[None] * SCORE_STEPS).astype(np.uint16)


def tissue(shape: tuple[int, int, int], cells: int, seed: int, voxel: tuple[float, ...] = VOXEL) -> tuple[Array, Array]:
    """Confluent cells around random centres, in um, and their walls as a network would say them (0 ... 1)."""
    rng = np.random.default_rng(seed)
    size = np.array(voxel)
    centres = rng.uniform(0, np.array(shape) * size, (cells, 3))
    place = (np.indices(shape).reshape(3, -1).T + 0.5) * size
    away, nearest = cKDTree(centres).query(place, 2)
    labels = nearest[:, 0].reshape(shape) + 1
    walls = np.exp(-(((away[:, 1] - away[:, 0]) / 2.5) ** 2)).reshape(shape)
    return labels.astype(np.uint32), walls.astype(np.float32)


def balls(shape: tuple[int, int, int], centres: list[tuple[float, ...]], radius: float) -> Array:
    """Distance to the nearest ball's edge in units of its radius, for voxels of `VOXEL`: 0 ... 1."""
    place = np.moveaxis(np.indices(shape), 0, -1) * np.array(VOXEL)
    away = np.min([np.linalg.norm(place - np.array(c), axis=-1) for c in centres], axis=0)
    return np.clip(1 - away / radius, 0, 1).astype(np.float32)


def test_walls_of_tissue_with_long_voxels() -> None:
    """The voxel size counts: distances along z are four times as long."""
    truth, walls = tissue((16, 64, 64), 14, seed=1)
    decoder = BoundaryWatershed(threshold=0.4, smoothing_px=2.0, min_size_px=50)
    found = label({"boundary": steps(walls)}, decoder, VOXEL)
    expected = boundary_watershed(
        steps(walls)[0] / np.float32(SCORE_STEPS), threshold=0.4, voxel_size=VOXEL, smoothing_px=(0.5, 2, 2),
        min_size_px=50,
    )  # fmt: skip
    np.testing.assert_array_equal(found, expected)
    assert evaluate_instances(truth, found).at(0.5).f1 > 0.7
    assert not np.array_equal(found, label({"boundary": steps(walls)}, decoder))


def test_tissue_is_labelled_only_where_the_network_sees_foreground() -> None:
    truth, walls = tissue((16, 64, 64), 14, seed=1)
    inside = np.zeros(truth.shape, np.float32)
    inside[:, :, :40] = 1
    decoder = BoundaryWatershed(merge_below=0.1)
    found = label({"boundary": steps(walls), "foreground": steps(inside)}, decoder, VOXEL)
    assert not found[:, :, 40:].any()
    assert (found[:, :, :40] > 0).mean() > 0.99


def test_two_nuclei_one_above_the_other_in_long_voxels() -> None:
    """Smoothing in px of the short side leaves the valley between two planes; as many planes would fill it."""
    distance = balls((9, 40, 40), [(8, 20, 20), (24, 20, 20)], 10)
    scores = {"foreground": steps((distance > 0).astype(np.float32)), "distance": steps(distance)}
    decoder = DistanceWatershed(smoothing_px=2.0, h=0.05, min_size_px=5)
    assert label(scores, decoder, VOXEL).max() == 2
    assert label(scores, decoder).max() == 1
    expected = distance_watershed(
        scores["foreground"][0] / np.float32(SCORE_STEPS), scores["distance"][0] / np.float32(SCORE_STEPS),
        smoothing_px=(0.5, 2, 2), h=0.05, min_size_px=5,
    )  # fmt: skip
    np.testing.assert_array_equal(label(scores, decoder, VOXEL), expected)


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_pieces_by_6_18_and_26_neighbours(connectivity: int) -> None:
    foreground = (np.random.default_rng(2).random((12, 14, 16)) < 0.18).astype(np.float32)
    decoder = Components(threshold=0.5, grow_px=0, min_size_px=1, connectivity=connectivity)
    found = label({"foreground": steps(foreground)}, decoder)
    structure = ndimage.generate_binary_structure(3, connectivity)
    expected, count = ndimage.label(foreground, structure)
    assert found.max() == count
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == count + 1  # one to one, background included


def test_a_decoder_for_something_else_is_refused() -> None:
    with pytest.raises(ModelError, match="'class' is not known"):
        label({}, ClassOf())


def write_wall_model(path: Path, **changes: Any) -> Path:
    """A network that takes brightness for walls: a 1 x 1 x 1 convolution."""
    spec = blob_spec(
        "ZYX",
        **{
            "tile": (16, 32, 32),
            "normalize": Normalize("constant", 0.0, 1.0),
            "outputs": (Output("boundary"),),
            "decoder": BoundaryWatershed(min_size_px=50),
            "voxel_size_um": VOXEL,
            "receptive_field": (0, 0, 0),
            "halo": (0, 0, 0),
            **changes,
        },
    )
    sides = ["z", "y", "x"]
    image, walls = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 1, *sides])
        for name in (INPUT_NAME, "boundary")
    )
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1, 1), np.float32), "weight")
    nodes = [helper.make_node("Conv", [INPUT_NAME, "weight"], ["boundary"])]
    graph = helper.make_graph(nodes, "walls", [image], [walls], [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, {METADATA_KEY: spec.to_json()})
    onnx.save(proto, path)
    return path


def test_tissue_in_blocks_is_that_of_the_whole(tmp_path: Path) -> None:
    """Confluent cells have no gaps at which blocks could be cut: nearly all must still come out the same."""
    truth, walls = tissue((12, 128, 200), 190, seed=3)
    path = write_wall_model(tmp_path / "walls.onnx", object_size_px=32.0)
    source = MemorySource(walls, "ZYX", voxel_size_um=VOXEL)
    with open_session(path, device="cpu", backend="onnxruntime", precision="fp32") as session:
        whole = infer_source(source, session, InferOptions())
        run, names = stream_source(
            source, session, InferOptions(max_ram=56_000_000), Stop(), Progress(), tmp_path / "out" / "a", is_zarr=False
        )
    assert run["blocks"] > 2
    with open_source(tmp_path / "out" / names[0]) as labels:
        found = labels.read(Region.whole(labels.shape))
    same = evaluate_instances(whole.labels, found)
    assert same.at(0.9).f1 > 0.98
    assert evaluate_instances(truth, whole.labels).at(0.5).f1 > 0.7
