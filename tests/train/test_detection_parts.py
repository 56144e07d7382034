"""What a detector learns from: each part against the plain rule, and a picture learnt by heart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from cellengine.models.detection import MaskRCNN
from cellengine.models.detection.anchors import level_anchors
from cellengine.models.detection.boxes import clip, decode, encode, overlaps
from cellengine.models.detection.proposals import WEIGHTS
from cellengine.train.detection.losses import detection_losses, mask_targets, sample_boxes
from cellengine.train.detection.matching import AnchorGrid, match_anchors, sample_anchors
from cellengine.train.detection.samples import list_objects
from cellengine.train.detection.settings import DetectionConfig
from tests.models.detector import TINY, detector
from tests.synthetic import draw_cells

Array = np.ndarray[Any, Any]

CROP = (64, 96)
GRID = AnchorGrid.of(TINY, CROP)
SETTINGS = DetectionConfig(objects=20, anchors=64, candidates=40, proposals=30, boxes=32)


def all_anchors() -> Array:
    levels = [level_anchors(TINY, i, CROP[0] // s, CROP[1] // s, torch.zeros(1)) for i, s in enumerate(TINY.strides)]
    return torch.cat(levels).numpy()


def random_objects(seed: int, n: int) -> Array:
    random = np.random.default_rng(seed)
    corner = np.floor(random.random((n, 2)) * (CROP[1] - 9, CROP[0] - 9))
    size = np.floor(np.exp(random.uniform(1, 4, (n, 2))))
    return np.concatenate([corner, np.minimum(corner + size, (CROP[1], CROP[0]))], axis=1).astype(np.float32)


def test_anchors_by_number_are_those_of_the_network() -> None:
    anchors = all_anchors()
    assert GRID.first[-1] == len(anchors)
    np.testing.assert_array_equal(GRID.boxes(np.arange(len(anchors))), anchors)


@given(st.integers(0, 10**6), st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_matching_is_the_rule_over_all_pairs(seed: int, n: int) -> None:
    objects = random_objects(seed, n)
    found = match_anchors(objects, GRID)
    both, union = (v.numpy() for v in overlaps(torch.from_numpy(all_anchors()), torch.from_numpy(objects)))
    iou = np.where(both > 0, both / union, 0)
    if n == 0:
        assert not found.iou.any()
        assert not found.is_best.any()
        return
    np.testing.assert_allclose(found.iou, iou.max(1), atol=1e-6)
    meets = iou.max(1) > 0
    reached = iou[np.arange(len(iou)), found.owner]
    np.testing.assert_allclose(reached[meets], iou.max(1)[meets], atol=1e-6)
    is_best = (np.abs(iou - iou.max(0)) < 1e-6) & (iou > 0)
    np.testing.assert_array_equal(found.is_best, is_best.any(1))


def test_anchors_are_drawn_from_both_sides_and_filled_up() -> None:
    matches = match_anchors(random_objects(3, 8), GRID)
    index, state = sample_anchors(matches, SETTINGS, np.random.default_rng(0))
    assert len(index) == 64
    assert 0 < (state == 1).sum() <= 32
    assert (matches.iou[index[state == 0]] < 0.3).all()
    fits = matches.is_best | (matches.iou >= 0.7)
    assert fits[index[state == 1]].all()
    many = replace(SETTINGS, anchors=10**5)
    index, state = sample_anchors(matches, many, np.random.default_rng(0))
    assert (state == 1).sum() == fits.sum()
    assert (state == -1).sum() > 0


def test_objects_of_a_crop_are_numbered_anew() -> None:
    labels = np.zeros((20, 30))
    labels[2:6, 3:9], labels[10:12, 0:2], labels[15:18, 20:30] = 7, 3, 250
    objects, boxes, count = list_objects(labels, most=4, least_px=5)  # the second has 4 px
    assert count == 2
    assert boxes.tolist() == [[3, 2, 9, 6], [20, 15, 30, 18], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert (objects == np.where(labels == 7, 1, np.where(labels == 250, 2, 0))).all()
    assert list_objects(labels, most=1, least_px=1)[2] == 1
    assert list_objects(np.zeros((4, 4)), most=2, least_px=1)[2] == 0


def test_pieces_of_one_label_are_objects_of_their_own() -> None:
    """A crop that looks over the border of its picture holds cells twice, mirrored, under one label."""
    labels = np.pad(np.pad([[5, 5, 5, 0]], ((3, 3), (4, 2))), ((0, 0), (0, 13)), mode="symmetric")
    labels[0, 0], labels[1, 1] = 9, 9  # pieces that touch at a corner are one
    objects, boxes, count = list_objects(labels, most=4, least_px=2)
    assert count == 3
    assert boxes[:3].tolist() == [[0, 0, 2, 2], [4, 3, 7, 4], [13, 3, 16, 4]]
    assert (objects[labels == 5] == [2, 2, 2, 3, 3, 3]).all()


def test_masks_of_boxes_by_eye() -> None:
    objects = torch.zeros(1, 40, 40, dtype=torch.int32)
    objects[0, 10:24, 10:24] = 1
    objects[0, 24:30, 10:24] = 2
    same, double, right_half = [10.0, 10, 24, 24], [3.0, 3, 31, 31], [17.0, 10, 31, 24]
    masks = mask_targets(objects, torch.tensor([[same, double, right_half]]), torch.tensor([[0, 0, 0]]))
    assert masks[0, 0].all()
    expected = torch.zeros(28, 28)
    expected[7:21, 7:21] = 1
    assert torch.equal(masks[0, 1], expected)
    expected = torch.zeros(28, 28)
    expected[:, :14] = 1
    assert torch.equal(masks[0, 2], expected)


def test_boxes_are_drawn_by_their_overlap() -> None:
    objects = torch.zeros(1, 20, 4)
    objects[0, :2] = torch.tensor([[0.0, 0, 10, 10], [30.0, 30, 50, 50]])
    proposals = torch.tensor([[0.0, 0, 10, 9], [31, 30, 50, 50], [0, 0, 10, 30], [70, 10, 80, 20], [0, 0, 0, 0]])
    is_proposal = torch.tensor([[True, True, True, True, False]])
    few = replace(SETTINGS, boxes=16, positive_boxes=0.25, box_iou=(0.1, 0.5))
    torch.manual_seed(0)
    sampled = sample_boxes(proposals[None], is_proposal, objects, CROP, few)
    assert sampled.boxes.shape == (1, 16, 4)
    assert sampled.is_object.tolist() == [[1, 1, 1, 1]]  # two proposals and the true boxes themselves
    for box, owner in zip(sampled.boxes[0, :4], sampled.owner[0], strict=True):
        both, union = overlaps(box[None], objects[0, owner : owner + 1])
        assert both / union >= 0.5
    background = sampled.boxes[0, 4:][sampled.is_background[0] > 0]
    assert background.tolist() == [[0, 0, 10, 30]]  # the box far away overlaps no object by 0.1
    all_background = replace(few, box_iou=(0.0, 0.5))
    nothing = sample_boxes(proposals[None], is_proposal, torch.zeros(1, 20, 4), CROP, all_background)
    assert not nothing.is_object.any()
    assert nothing.is_background.sum() == 4


def test_true_boxes_are_moved_a_little_and_stay_in_the_picture() -> None:
    objects = torch.zeros(1, 20, 4)
    objects[0, 0] = torch.tensor([70.0, 0, 96, 20])  # at the top right corner
    wavering = replace(SETTINGS, boxes=16, box_jitter=0.1)
    torch.manual_seed(0)
    for _ in range(8):
        sampled = sample_boxes(torch.zeros(1, 16, 4), torch.zeros(1, 16, dtype=torch.bool), objects, CROP, wavering)
        (box,) = sampled.boxes[0, :4][sampled.is_object[0] > 0]
        assert not torch.equal(box, objects[0, 0])
        assert (box - objects[0, 0]).abs().max() < 0.5 * 26
        assert torch.equal(clip(box, *CROP), box)


def batch_of(image: Array, labels: Array) -> tuple[torch.Tensor, ...]:
    """One picture as `ObjectSamples` gives it, as a batch."""
    grid = AnchorGrid.of(TINY, labels.shape)
    objects, boxes, count = list_objects(labels, SETTINGS.objects, 8)
    matches = match_anchors(boxes[:count], grid)
    index, state = sample_anchors(matches, SETTINGS, np.random.default_rng(0))
    deltas = encode(
        torch.from_numpy(boxes[matches.owner[index]]), torch.from_numpy(grid.boxes(index)), WEIGHTS
    ) * torch.from_numpy(state == 1).reshape(-1, 1)
    picture = torch.from_numpy(image / np.float32(255))[None]
    return tuple(t[None] for t in (picture, *map(torch.from_numpy, (objects, boxes, index, state)), deltas))


def test_what_leads_from_an_anchor_to_its_object() -> None:
    image, labels = draw_cells((64, 64), 8, seed=1)
    _, _, boxes, index, state, deltas = (t[0] for t in batch_of(image, labels))
    grid = AnchorGrid.of(TINY, labels.shape)
    reached = decode(deltas, torch.from_numpy(grid.boxes(index.numpy())), WEIGHTS)[state == 1]
    assert len(reached) > 0
    for box in reached:
        assert (boxes - box).abs().max(1).values.min() < 1e-3


def test_a_picture_is_learnt_by_heart() -> None:
    """The losses fall, and the network finds the cells of the picture it has seen.

    The loss of boxes may rise: it counts per box drawn, and ever more of these lie on objects.
    """
    image, labels = draw_cells((64, 64), 6, seed=1, radius_px=(5, 9))
    batch = batch_of(image, labels)
    config = replace(TINY, width=8, pyramid=16, box_features=32, mask_features=16, suppression_depth=6)
    torch.manual_seed(0)
    module = MaskRCNN(config)
    optimizer = torch.optim.AdamW(module.parameters(), 4e-3)
    history = []
    module.train()
    for _ in range(60):
        terms = detection_losses(module, batch, SETTINGS)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in terms.items()})
    assert list(history[0]) == ["objectness", "anchor_box", "class", "box", "mask"]
    for name in ("objectness", "anchor_box", "class", "mask"):
        late = np.mean([row[name] for row in history[-5:]])
        assert late < 0.5 * np.mean([row[name] for row in history[:3]]), name
    with torch.inference_mode():
        answer = module.eval()(batch[0])
    found = answer["boxes"][0, : int(answer["count"][0])][:, [1, 0, 3, 2]]
    both, union = overlaps(batch[2][0, : labels.max()], found)
    assert ((both / union).max(1).values > 0.5).float().mean() >= 0.8


def test_gradients_reach_every_weight() -> None:
    image, labels = draw_cells((64, 64), 8, seed=1)
    module = detector().train()
    sum(detection_losses(module, batch_of(image, labels), SETTINGS).values()).backward()
    unreached = [name for name, weights in module.named_parameters() if weights.grad is None]
    assert unreached == []


def test_a_crop_without_objects_teaches_background_only() -> None:
    terms = detection_losses(detector().train(), batch_of(np.zeros((64, 64), np.uint8), np.zeros((64, 64))), SETTINGS)
    assert {name for name, value in terms.items() if value > 0} == {"objectness", "class"}
    assert all(torch.isfinite(value) for value in terms.values())
