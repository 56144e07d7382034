"""`infer` on one source: labels, numbering, table, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from skimage.measure import regionprops_table

import cellengine
from cellengine.engine import infer as room
from cellengine.engine.backends import open_session
from cellengine.engine.flow import Stop
from cellengine.engine.infer import infer_array, infer_source
from cellengine.engine.label import drop_doubtful
from cellengine.engine.options import InferOptions
from cellengine.engine.session import Session
from cellengine.errors import InputError, Interrupted, ResourceError
from cellengine.io import MemorySource
from tests.engine.blobs import write_blob_model
from tests.synthetic import draw_cells


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A model without training that finds bright cells: foreground and distance are a smoothed intensity."""
    path = write_blob_model(tmp_path_factory.mktemp("blobs") / "blobs.onnx")
    with open_session(path, device="cpu", backend="onnxruntime", precision="fp32") as opened:
        yield opened


def test_cells_are_found_and_measured(session: Session) -> None:
    picture, truth = draw_cells((120, 150), 14, seed=5, radius_px=(5, 9))
    result = infer_source(MemorySource(picture, voxel_size_um=(0.5, 0.25)), session, InferOptions())
    assert result.labels.dtype == np.uint32
    assert result.labels.max() == truth.max() == len(result.objects["label"]) == result.run["objects"]
    expected = regionprops_table(result.labels, picture, ("label", "area", "centroid", "bbox", "mean_intensity"))
    np.testing.assert_array_equal(result.objects["label"], expected["label"])
    np.testing.assert_array_equal(result.objects["area_px"], expected["area"])
    np.testing.assert_allclose(result.objects["area_um2"], expected["area"] * 0.125)
    np.testing.assert_allclose(result.objects["centroid_x_px"], expected["centroid-1"])
    np.testing.assert_allclose(result.objects["centroid_x_um"], expected["centroid-1"] * 0.25)
    np.testing.assert_array_equal(result.objects["bbox_y1"], expected["bbox-2"])
    np.testing.assert_allclose(result.objects["intensity_mean_c0"], expected["mean_intensity"])
    assert set(result.objects["class"]) == {"cell"}
    assert ((result.objects["score"] > 0.5) & (result.objects["score"] <= 1)).all()


@pytest.mark.parametrize("tile", [(48, 48), (64, 32), (96, 96)])
def test_labels_do_not_depend_on_the_tile(session: Session, tile: tuple[int, int]) -> None:
    picture, _ = draw_cells((120, 150), 14, seed=6)
    whole = infer_source(MemorySource(picture), session, InferOptions(tile=(256, 256), halo="exact"))
    tiled = infer_source(MemorySource(picture), session, InferOptions(tile=tile, halo="exact"))
    np.testing.assert_array_equal(whole.labels, tiled.labels)


def test_every_plane_is_its_own_picture_and_labels_are_unique_in_the_file(session: Session) -> None:
    planes = [draw_cells((80, 90), 8, seed=s)[0] for s in range(4)]
    planes[2] = (planes[2] // 8).astype(np.uint8)  # a dim plane is scaled by itself
    stack = np.stack(planes).reshape(2, 2, 80, 90)
    result = infer_source(MemorySource(stack, "TZYX"), session, InferOptions())
    assert (result.axes, result.labels.shape) == ("TZYX", stack.shape)
    assert result.objects["label"].tolist() == list(range(1, result.labels.max() + 1))
    for t in range(2):
        for z in range(2):
            alone = infer_array(stack[t, z][None], session)
            here = (result.objects["t"] == t) & (result.objects["z"] == z)
            assert here.sum() == alone.labels.max() > 0
            np.testing.assert_array_equal(result.labels[t, z] > 0, alone.labels > 0)
            assert set(np.unique(result.labels[t, z])) - {0} == set(result.objects["label"][here])


def test_one_time_point_can_be_chosen(session: Session) -> None:
    stack = np.stack([draw_cells((60, 70), 6, seed=s)[0] for s in range(3)])
    result = infer_source(MemorySource(stack, "TYX"), session, InferOptions(timepoint=1))
    assert (result.axes, result.labels.shape) == ("YX", (60, 70))
    assert set(result.objects["t"]) == {1}


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (13, 1), (17, 31)])
def test_tiny_pictures(session: Session, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    result = infer_source(MemorySource(image), session, InferOptions())
    assert result.labels.shape == shape


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_picture_holds_nothing(session: Session, value: int) -> None:
    result = infer_source(MemorySource(np.full((50, 60), value, np.uint16)), session, InferOptions())
    assert result.labels.max() == 0
    assert len(result.objects["label"]) == 0


def test_values_that_are_no_numbers_are_refused_or_counted(session: Session) -> None:
    picture = draw_cells((60, 70), 6, seed=1)[0].astype(np.float32)
    picture[3, 4], picture[5, 6] = np.nan, np.inf
    with pytest.raises(InputError, match=r"2 values that are NaN or infinite.*--nan zero"):
        infer_source(MemorySource(picture), session, InferOptions())
    result = infer_source(MemorySource(picture), session, InferOptions(nan="zero"))
    assert result.run["not_finite"] == 2
    clean = np.nan_to_num(picture, nan=0, posinf=0)
    assert result.labels.max() == infer_source(MemorySource(clean), session, InferOptions()).labels.max() > 0


def test_what_does_not_fit_in_memory_is_refused_before_any_work(session: Session) -> None:
    with pytest.raises(ResourceError, match=r"needs about \d+\.\d GB of memory, \d+\.\d GB may be used"):
        infer_source(MemorySource(np.zeros((3000, 3000), np.uint8)), session, InferOptions(max_ram=40_000_000))


def test_a_stopped_run_ends_at_the_next_tile(session: Session) -> None:
    stop = Stop()
    done: list[int] = []

    def stop_soon(tiles: int) -> None:
        done.append(tiles)
        stop.signal_number = 15

    picture, _ = draw_cells((200, 200), 10, seed=1)
    progress = room.Progress(advance=stop_soon)
    with pytest.raises(Interrupted):
        infer_source(MemorySource(picture), session, InferOptions(tile=(48, 48)), stop, progress)
    assert 1 <= len(done) <= 2 + session.concurrency


def test_the_python_interface(session: Session, tmp_path: Path) -> None:
    picture, _ = draw_cells((60, 70), 6, seed=1)
    from_array = cellengine.infer(picture, session)
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", picture)
    from_file = cellengine.infer(tmp_path / "a.tif", session)
    np.testing.assert_array_equal(from_array.labels, from_file.labels)


def test_doubtful_objects_are_dropped_without_gaps() -> None:
    labels = np.array([[1, 1, 0, 2], [3, 3, 0, 2]], np.uint32)
    foreground = np.array([[0.9, 0.9, 0, 0.6], [0.95, 0.85, 0, 0.6]], np.float32)
    assert drop_doubtful(labels, foreground, 0.8).tolist() == [[1, 1, 0, 0], [2, 2, 0, 0]]
