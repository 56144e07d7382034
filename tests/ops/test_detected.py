"""Objects of tiles become those of the picture: each once, wherever tiles meet."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cellengine.geometry import Region, plan_tiles
from cellengine.ops.detected import Detected, detected_in_tile, drop_doubles, join_detected, label_detected

DISC = (np.hypot(*(np.mgrid[:28, :28] - 13.5)) < 13).astype(np.float32)


def answers(tile: Region, boxes: np.ndarray, scores: np.ndarray, jitter: np.ndarray) -> dict[str, np.ndarray]:
    """What a detector says of the objects that a tile holds whole, each a little off, padded to 40 places."""
    low, high = np.tile(tile.start, 2), np.tile(tile.stop, 2)
    seen = ((boxes >= low) & (boxes <= high)).all(axis=1)
    n = int(seen.sum())
    out = {
        "boxes": np.zeros((1, 40, 4), np.float32),
        "scores": np.zeros((1, 40), np.float32),
        "classes": np.zeros((1, 40), np.float32),
        "masks": np.zeros((1, 40, 28, 28), np.float32),
        "count": np.array([n], np.float32),
    }
    out["boxes"][0, :n] = (boxes + jitter)[seen] - low
    out["scores"][0, :n] = scores[seen]
    out["masks"][0, :n] = DISC
    return out


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(64, 48), (100, 130), (33, 70)]))
def test_every_object_is_found_once_whatever_the_tiles(seed: int, shape: tuple[int, int]) -> None:
    """Objects on a grid that do not touch; tiles of 64 px overlap by more than an object and see it up to 1 px off."""
    rng = np.random.default_rng(seed)
    corners = np.stack(np.meshgrid(*(np.arange(2, n - 12, 14) for n in shape), indexing="ij"), -1).reshape(-1, 2)
    corners = corners[rng.permutation(len(corners))[:30]]
    boxes = np.concatenate([corners, corners + 10], axis=1).astype(np.float32)
    scores = rng.uniform(0.5, 1, len(boxes)).astype(np.float32)
    parts = []
    for tile in plan_tiles(shape, (64, 64), (16, 16), (16, 16)):
        said = answers(tile.read, boxes, scores, rng.uniform(-0.5, 0.5, (len(boxes), 1)))
        parts.append(detected_in_tile(said, 0, tile, 0.5))
    found = drop_doubles(join_detected(parts), 0.3, shape)
    labels, listed = label_detected(found, shape)
    assert len(found) == len(boxes) == len(listed) == labels.max()
    for box in boxes:
        y, x = ((box[:2] + box[2:]) / 2).astype(int)
        own = listed.boxes[labels[y, x] - 1]
        assert labels[y, x] > 0
        assert np.abs(own - box).max() <= 0.5


def test_scores_below_and_places_beyond_the_count_are_left_out() -> None:
    whole = next(iter(plan_tiles((64, 64), (64, 64), (0, 0), (16, 16))))
    said = answers(whole.read, np.array([[0, 0, 10, 10], [20, 20, 30, 30.0]]), np.array([0.9, 0.4]), np.zeros((2, 1)))
    said["scores"][0, 2:] = 0.99  # beyond the count
    assert detected_in_tile(said, 0, whole, 0.5).boxes.tolist() == [[0, 0, 10, 10]]
    assert len(detected_in_tile(said, 0, whole, 0.3)) == 2


def test_the_better_object_lies_on_top_and_labels_follow_the_raster() -> None:
    boxes = np.array([[10, 10, 30, 30], [8, 18, 28, 38], [0, 0, 6, 6], [14, 14, 18, 18]], np.float32)
    scores = np.array([0.6, 0.9, 0.5, 0.1], np.float32)
    found = Detected(boxes, scores, np.arange(4), np.ones((4, 28, 28), np.float32))
    labels, listed = label_detected(found, (40, 40))
    assert listed.classes.tolist() == [2, 1, 0]  # the fourth lies under the first entirely
    assert labels[20, 20] == 2
    assert labels[20, 12] == 3
    assert labels[2, 2] == 1


def test_nothing_at_all() -> None:
    found = drop_doubles(join_detected([]), 0.3, (20, 20))
    labels, listed = label_detected(found, (20, 20))
    assert len(listed) == labels.max() == 0
    assert labels.shape == (20, 20)
