"""The picture at the model's voxel size: which grid, tile by tile, and labels back on the picture's grid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

import cellengine
from cellengine.engine import resample as room
from cellengine.engine.backends import open_session
from cellengine.engine.infer import infer_array, infer_source
from cellengine.engine.options import InferOptions
from cellengine.engine.resample import Grid, ResampledSource, fit_source, size_unknown
from cellengine.engine.session import Session
from cellengine.errors import InputError, UsageError
from cellengine.geometry import Region
from cellengine.io import MemorySource
from tests.engine.blobs import blob_spec, write_blob_model
from tests.synthetic import draw_cells

Array = np.ndarray[Any, Any]


def nearest(values: Array, shape: tuple[int, ...]) -> Array:
    """Nearest neighbour, voxel by voxel."""
    out = np.empty(shape, values.dtype)
    for place in np.ndindex(shape):
        centre = [(2 * i + 1) * m // (2 * n) for i, n, m in zip(place, shape, values.shape, strict=True)]
        out[place] = values[tuple(centre)]
    return out


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    dims = draw(st.sampled_from([2, 3]))
    sizes = st.tuples(*(st.integers(1, 12),) * dims)
    return Grid(draw(sizes), draw(sizes))


@settings(max_examples=30)
@given(grids(), st.data())
def test_labels_come_back_box_by_box_as_the_nearest_of_the_whole(grid: Grid, data: st.DataObject) -> None:
    labels = np.arange(np.prod(grid.network), dtype=np.uint32).reshape(grid.network)
    expected = nearest(labels, grid.image)
    np.testing.assert_array_equal(grid.whole_to_image(labels), expected)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in grid.image)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, grid.image, strict=True))
    box = Region(start, stop)
    part = labels[grid.network_region(box).slices]
    np.testing.assert_array_equal(grid.to_image(part, box), expected[box.slices])
    assert grid.loses == (len(np.unique(expected)) < labels.size)


@settings(max_examples=30)
@given(grids(), st.integers(1, 5))
def test_boxes_that_partition_the_networks_grid_partition_the_picture(grid: Grid, step: int) -> None:
    seen = np.zeros(grid.image, int)
    for piece in Region.whole(grid.network).pieces(step):
        place = grid.image_region(piece)
        seen[place.slices] += 1
        if place.size:
            assert piece.contains(grid.network_region(place))
    assert (seen == 1).all()


@settings(max_examples=20)
@given(
    st.tuples(st.integers(2, 4), st.integers(3, 20), st.integers(3, 20)),
    st.tuples(st.integers(1, 4), st.integers(2, 30), st.integers(2, 30)),
    st.data(),
)
def test_resampled_tiles_equal_the_resampled_whole(
    shape: tuple[int, int, int], new: tuple[int, int, int], data: st.DataObject
) -> None:
    image = np.random.default_rng(1).integers(0, 60000, (2, *shape)).astype(np.uint16)
    source = ResampledSource(MemorySource(image, "CZYX", voxel_size_um=(1, 1, 1)), new)
    assert (source.shape, source.dtype) == ((2, *new), np.uint16)
    whole = source.read(Region.whole(source.shape))
    start = tuple(data.draw(st.integers(0, n - 1)) for n in source.shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, source.shape, strict=True))
    np.testing.assert_array_equal(source.read(Region(start, stop)), whole[Region(start, stop).slices])


def test_a_large_piece_is_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(1).integers(0, 255, (37, 53)).astype(np.uint8)
    source = ResampledSource(MemorySource(image), (9, 11))
    at_once = source.read(Region.whole((9, 11)))
    monkeypatch.setattr(room, "READ_VOXELS", 60)
    np.testing.assert_array_equal(source.read(Region.whole((9, 11))), at_once)


@pytest.mark.parametrize(
    ("found", "wanted", "shape"),
    [
        ((0.5, 0.25), (1.0, 1.0), (20, 15)),
        ((0.51, 0.5), (0.5, 0.5), (40, 60)),  # nearly equal: left alone
        ((2.0, 1.0), (1.0, 1.0), (80, 60)),
    ],
)
def test_the_grid_follows_from_the_voxel_sizes(
    found: tuple[float, float], wanted: tuple[float, float], shape: tuple[int, int]
) -> None:
    source = MemorySource(np.zeros((40, 60), np.uint8), voxel_size_um=found)
    fitted = fit_source(source, blob_spec(voxel_size_um=wanted))
    assert fitted.shape == shape
    assert (fitted is source) == (shape == source.shape)
    assert np.allclose(fitted.voxel_size_um or 0, np.array(found) * (40 / shape[0], 60 / shape[1]))


def test_a_factor_of_the_spec_needs_no_voxel_size() -> None:
    source = MemorySource(np.zeros((2, 9, 40, 60), np.uint8), "CZYX")
    assert fit_source(source, blob_spec("ZYX", reduce=(4.0, 8.0, 8.0))).shape == (2, 2, 5, 8)


def test_what_the_voxel_size_must_be_is_asked_for() -> None:
    volume, picture = MemorySource(np.zeros((4, 5, 6)), "ZYX"), MemorySource(np.zeros((5, 6)))
    with pytest.raises(InputError, match=r"found no voxel size.* z,y,x = 2,0.5,0.5 um.*--voxel-size z,y,x"):
        fit_source(volume, blob_spec("ZYX", voxel_size_um=(2.0, 0.5, 0.5)))
    assert fit_source(volume, blob_spec("ZYX", voxel_size_um=(0.5, 0.5, 0.5))) is volume
    assert fit_source(picture, blob_spec(voxel_size_um=(0.5, 0.5))) is picture
    wrong = MemorySource(np.zeros((5, 6)), voxel_size_um=(1000.0, 1000.0))
    with pytest.raises(InputError, match=r"found voxels of y,x = 1000,1000 um.*works at 0.5,0.5 um.*--voxel-size"):
        fit_source(wrong, blob_spec(voxel_size_um=(0.5, 0.5)))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """The model of bright cells, which wants voxels of half a micrometre."""
    path = write_blob_model(tmp_path_factory.mktemp("blobs") / "blobs.onnx", voxel_size_um=(0.5, 0.5))
    with open_session(path, device="cpu", backend="onnxruntime", precision="fp32") as opened:
        yield opened


@pytest.mark.parametrize("size", [(0.25, 0.25), (0.125, 0.25), (1.0, 1.0)])
def test_cells_of_another_voxel_size_are_found_and_measured_on_their_own_grid(
    session: Session, size: tuple[float, float]
) -> None:
    """Cells drawn at the model's size, then given finer or coarser, are found as many and as large in um."""
    picture, truth = draw_cells((120, 160), 14, seed=5, radius_px=(6, 9))
    steps = tuple(0.5 / s for s in size)
    if steps[0] >= 1:
        other = np.kron(picture, np.ones([int(s) for s in steps], np.uint8))
    else:
        other = picture.reshape(60, 2, 80, 2).mean((1, 3)).astype(np.uint8)
    same = infer_source(MemorySource(picture, voxel_size_um=(0.5, 0.5)), session, InferOptions())
    found = infer_source(MemorySource(other, voxel_size_um=size), session, InferOptions())
    assert found.labels.shape == other.shape
    assert found.run["network_shape"] == [120, 160]
    assert found.labels.max() == len(found.objects["label"]) == truth.max() == len(same.objects["label"])
    np.testing.assert_allclose(found.objects["area_um2"], same.objects["area_um2"], rtol=0.25)
    np.testing.assert_allclose(found.objects["centroid_x_um"] + size[1] / 2, same.objects["centroid_x_um"] + 0.25,
                               atol=0.5)  # fmt: skip
    np.testing.assert_array_equal(found.objects["label"], np.unique(found.labels)[1:])


@pytest.mark.parametrize("wish", [{"voxel_size_um": (0.5, 0.5)}, {"reduce": (2.0, 2.0)}])
def test_pictures_that_are_as_the_model_wants_them_are_left_alone(tmp_path: Path, wish: dict[str, object]) -> None:
    """Validation pictures of a model for reduced ones are reduced already: training once reduced them again."""
    picture, truth = draw_cells((120, 160), 14, seed=5, radius_px=(6, 9))
    path = write_blob_model(tmp_path / "blobs.onnx", **wish)
    source = MemorySource(picture, voxel_size_um=(0.25, 0.25))
    with open_session(path, device="cpu", backend="onnxruntime", precision="fp32") as opened:
        as_trained = infer_array(picture[None], opened)
        as_it_is = infer_source(source, opened, InferOptions(resample=False))
        reduced = infer_source(source, opened, InferOptions())
    assert as_trained.run["network_shape"] == as_it_is.run["network_shape"] == [120, 160]
    assert as_it_is.labels.max() == truth.max()
    np.testing.assert_array_equal(as_trained.labels, as_it_is.labels)
    assert reduced.run["network_shape"] == [60, 80]


def test_tiling_does_not_change_resampled_labels(session: Session) -> None:
    picture, _ = draw_cells((230, 310), 30, seed=6, radius_px=(6, 9))
    source = MemorySource(picture, voxel_size_um=(0.31, 0.37))
    whole = infer_source(source, session, InferOptions(tile=(256, 256), halo="exact"))
    tiled = infer_source(source, session, InferOptions(tile=(48, 64), halo="exact"))
    np.testing.assert_array_equal(whole.labels, tiled.labels)
    assert whole.labels.max() > 5


def test_a_size_that_is_given_takes_the_place_of_the_files(session: Session, tmp_path: Path) -> None:
    picture, _ = draw_cells((120, 160), 14, seed=5, radius_px=(6, 9))
    path = tmp_path / "fine.tif"
    tifffile.imwrite(path, np.kron(picture, np.ones((2, 2), np.uint8)))
    same = cellengine.infer(picture, session, voxel_size_um=(0.5, 0.5))
    found = cellengine.infer(path, session, voxel_size_um=(0.25, 0.25))
    assert found.run["voxel_size_um"] == [0.25, 0.25]
    assert found.labels.max() == same.labels.max() > 5
    with pytest.raises(UsageError, match=r"voxel size of 3 numbers was given, its axes YX need 2: --voxel-size y,x"):
        cellengine.infer(picture, session, voxel_size_um=(1.0, 0.5, 0.5))
    assert (
        "taken to be that of the model blobs (y,x = 0.5,0.5 um)" in size_unknown(MemorySource(picture), session.spec)[0]
    )
