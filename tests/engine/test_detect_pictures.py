"""`infer` with a detector: labels and table agree, whatever the picture; random weights that find something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cellengine.engine.infer import infer_array
from cellengine.engine.options import InferOptions
from cellengine.models.session import TorchSession
from cellengine.spec import Detections, ModelSpec, Normalize
from tests.models.detector import TINY, detector
from tests.synthetic import draw_cells

CONFIG = replace(TINY, proposals=60, detections=40, min_score=0.1)
SPEC = ModelSpec(
    name="tiny-detector",
    task="detection",
    axes="YX",
    channels=("signal",),
    tile=(96, 96),
    divisor=CONFIG.divisor,
    receptive_field=CONFIG.receptive_field,
    halo=(16, 16),
    normalize=Normalize("minmax"),
    outputs=CONFIG.outputs,
    decoder=Detections(min_score=0.3, max_iou=0.5),
    classes=("cell",),
)


@pytest.fixture(scope="module")
def session() -> TorchSession:
    return TorchSession(detector(CONFIG), SPEC)


@pytest.mark.parametrize("shape", [(150, 170), (37, 61), (5, 3)])
def test_labels_and_table_tell_the_same(session: TorchSession, shape: tuple[int, int]) -> None:
    """Larger than a tile, no multiple of the stride, and smaller than it."""
    picture, _ = draw_cells(shape, 30, seed=2)
    result = infer_array(picture[None], session)
    labels, table = result.labels, result.objects
    assert labels.shape == shape
    assert table["label"].tolist() == list(range(1, int(labels.max()) + 1))
    assert np.array_equal(np.bincount(labels.ravel(), minlength=len(table["label"]) + 1)[1:], table["area_px"])
    assert ((table["score"] >= 0.3) & (table["score"] <= 1)).all()
    first = [int(np.flatnonzero(labels == i)[0]) for i in table["label"]]
    assert first == sorted(first)
    if shape == (150, 170):
        assert labels.max() > 3
        assert set(table["class"]) == {"cell"}


def test_nothing_in_a_constant_picture(session: TorchSession) -> None:
    result = infer_array(np.full((1, 40, 50), 7, np.uint8), session)
    assert not result.labels.any()
    assert len(result.objects["label"]) == 0
    assert {"score", "class"} <= set(result.objects)


def test_the_answer_does_not_depend_on_the_batch(session: TorchSession) -> None:
    picture, _ = draw_cells((150, 170), 30, seed=2)
    one, three = (infer_array(picture[None], session, InferOptions(batch=n)).labels for n in (1, 3))
    assert (one != three).mean() < 0.01  # floating point of another batch size
