"""Suppression equals the plain quadratic rule, pasted masks torch's bilinear sampling; one tile owns each box."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellengine.errors import UsageError
from cellengine.geometry import Region, plan_tiles
from cellengine.ops import nms, nms_masks, owned, paste_mask, paste_masks


def box_iou(a: np.ndarray, b: np.ndarray) -> np.float32:
    height = max(min(a[2], b[2]) - max(a[0], b[0]), np.float32(0))
    width = max(min(a[3], b[3]) - max(a[1], b[1]), np.float32(0))
    both = height * width
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return np.float32(both / union) if both > 0 else np.float32(0)


def slow_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float, classes: np.ndarray) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if all(classes[i] != classes[k] or box_iou(boxes[i], boxes[k]) <= np.float32(threshold) for k in kept):
            kept.append(int(i))
    return kept


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 60),
    st.sampled_from([5.0, 60.0, 1000.0]),
    st.sampled_from([0.0, 0.3, 0.5, 0.7]),
    st.integers(1, 3),
    st.integers(0, 10**6),
)
def test_nms_is_the_plain_rule(n: int, spread: float, threshold: float, kinds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.random((n, 2)) * spread
    size = np.exp(rng.normal(1, rng.choice([0.1, 2.0]), (n, 2)))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    scores = rng.integers(0, 10, n) / 10  # equal scores too
    classes = rng.integers(0, kinds, n)
    assert nms(boxes, scores, threshold, classes).tolist() == slow_nms(boxes, scores, threshold, classes)


def test_nms_of_nothing_of_points_and_of_twins() -> None:
    assert nms(np.zeros((0, 4)), np.zeros(0)).tolist() == []
    assert nms(np.zeros((3, 4)), np.ones(3)).tolist() == [0, 1, 2]
    assert nms(np.array([[0, 0, 2, 2]] * 4), np.array([1, 3, 3, 2])).tolist() == [1]
    with pytest.raises(UsageError, match="one each"):
        nms(np.zeros((3, 4)), np.ones(2))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 25), st.sampled_from([0.0, 0.2, 0.5]), st.integers(0, 10**6))
def test_nms_masks_is_the_plain_rule(n: int, threshold: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner, size = rng.integers(0, 20, (n, 2)), rng.integers(1, 9, (n, 2))
    boxes = np.concatenate([corner, corner + size], axis=1)
    masks = [rng.random(s) < 0.8 for s in size]
    scores = rng.random(n)
    full = np.zeros((n, 40, 40), bool)
    for mask, whole, box in zip(full, masks, boxes, strict=True):
        mask[box[0] : box[2], box[1] : box[3]] = whole
    kept: list[int] = []
    for i in np.argsort(-scores):
        both = [((full[i] & full[k]).sum(), (full[i] | full[k]).sum()) for k in kept]
        if not any(union and inner > np.float32(threshold) * union for inner, union in both):
            kept.append(int(i))
    assert nms_masks(boxes, masks, scores, threshold).tolist() == kept


def test_masks_must_fill_their_boxes() -> None:
    with pytest.raises(UsageError, match="must agree"):
        nms_masks(np.array([[0, 0, 2, 2]]), [np.ones((2, 3), bool)], np.ones(1))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_pasted_masks_are_bilinear_samples(seed: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    n, shape = 4, (30, 40)
    corner = rng.random((n, 2)) * [25, 35] - 3
    boxes = np.concatenate([corner, corner + 1 + rng.random((n, 2)) * 15], axis=1).astype(np.float32)
    masks, scores = rng.random((n, 7, 7)).astype(np.float32), rng.random(n)
    expected, unsure = np.zeros(shape, np.uint32), np.zeros(shape, bool)
    centre_y, centre_x = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    for i in np.argsort(scores):
        y = (centre_y - boxes[i, 0]) / (boxes[i, 2] - boxes[i, 0]) * 2 - 1
        x = (centre_x - boxes[i, 1]) / (boxes[i, 3] - boxes[i, 1]) * 2 - 1
        grid = np.stack(np.meshgrid(x, y), axis=-1)[None].astype(np.float32)
        sample = torch.nn.functional.grid_sample(
            torch.from_numpy(masks[i])[None, None], torch.from_numpy(grid), align_corners=False
        )[0, 0].numpy()
        expected[sample >= 0.5] = i + 1
        unsure |= np.abs(sample - 0.5) < 1e-4
    found = paste_masks(boxes, masks, shape, scores)
    np.testing.assert_array_equal(found[~unsure], expected[~unsure])


def test_one_mask_at_full_size_is_the_same_cut_out() -> None:
    rng = np.random.default_rng(0)
    mask, box = rng.random((28, 28)), [-2.5, 3.25, 20.0, 61.5]
    place, pixels = paste_mask(box, mask, (30, 50))
    full = paste_masks(np.array([box]), mask[None], (30, 50)) > 0
    np.testing.assert_array_equal(full[place[0] : place[2], place[1] : place[3]], pixels)
    assert full.sum() == pixels.sum()
    assert paste_mask([-9, -9, -3, -3], mask, (30, 50))[1].size == 0


def test_wrong_masks_are_named() -> None:
    with pytest.raises(UsageError, match="boxes"):
        paste_masks(np.zeros((2, 4)), np.zeros((3, 7, 7)), (9, 9))


def test_every_box_has_one_owner() -> None:
    rng = np.random.default_rng(1)
    corner = rng.random((500, 2)) * [90, 140]
    boxes = np.concatenate([corner, corner + rng.random((500, 2)) * 9], axis=1)
    owners = np.zeros(500, int)
    for tile in plan_tiles((100, 150), (48, 48), (8, 8), (8, 8)):
        owners += owned(boxes, tile.core)
    assert (owners == 1).all()
    assert owned(boxes, Region((0, 0), (0, 0))).sum() == 0
