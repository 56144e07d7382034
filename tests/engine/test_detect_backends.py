"""A detector in every runtime on the pictures that break one: nothing, hundreds, single pixels, less than a stride."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from cellengine.engine.backends import open_session
from cellengine.engine.infer import infer_array
from cellengine.engine.session import Session
from tests.engine.detector import write_peak_model


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    path = write_peak_model(tmp_path_factory.mktemp("model") / "peaks.onnx")
    with open_session(path, device="cpu", backend=request.param, precision="fp32") as opened:
        yield opened


def spots(rows: int, columns: int, side: int = 9, pitch: int = 24) -> np.ndarray:
    """Bright squares on a grid."""
    picture = np.zeros((rows * pitch, columns * pitch), np.uint8)
    first = (pitch - side) // 2
    for y in range(first, picture.shape[0], pitch):
        for x in range(first, picture.shape[1], pitch):
            picture[y : y + side, x : x + side] = 250
    return picture


def test_five_hundred_objects_are_found_once_each(session: Session) -> None:
    picture = spots(20, 25)
    result = infer_array(picture[None], session)
    assert len(result.objects["label"]) == result.labels.max() == 500
    middle = result.labels[12::24, 12::24]
    assert len(np.unique(middle[middle > 0])) == 500


@pytest.mark.parametrize("shape", [(40, 50), (5, 3), (1, 1)])
def test_a_picture_without_objects(session: Session, shape: tuple[int, int]) -> None:
    empty = np.zeros(shape, np.uint8)
    constant, dim = (
        infer_array(empty[None], session),
        infer_array((empty + np.eye(*shape, dtype=np.uint8))[None], session),
    )
    for result in (constant, dim):
        assert result.labels.shape == shape
        assert not result.labels.any()
        assert len(result.objects["label"]) == 0


def test_a_picture_smaller_than_the_stride_may_hold_an_object(session: Session) -> None:
    picture = np.full((5, 3), 250, np.uint8)
    picture[0, 0] = 240  # not constant
    result = infer_array(picture[None], session)
    assert result.labels.max() == 1


def test_objects_of_single_pixels(session: Session) -> None:
    """Too small for this detector, beside one that it finds: they neither count nor disturb."""
    picture = spots(1, 1, pitch=64)
    picture[3::16, 3::16] = 255
    result = infer_array(picture[None], session)
    assert len(result.objects["label"]) == 1
    assert result.labels[32, 32] == 1
