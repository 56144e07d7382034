"""The detector: every part against loops that a reader can check by eye, and the whole against the textbook's way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from cellengine.errors import UsageError
from cellengine.models.detection import MaskRCNN, MaskRCNNConfig
from cellengine.models.detection.anchors import level_anchors
from cellengine.models.detection.boxes import clip, decode, encode, overlaps
from cellengine.models.detection.compress import compress
from cellengine.models.detection.mask_rcnn import BOX_WEIGHTS
from cellengine.models.detection.proposals import NOTHING, peaks
from cellengine.models.detection.roi_align import RoiAlign, RoiForm
from cellengine.models.detection.suppression import suppress
from tests.models.detector import TINY, detector

Array = np.ndarray[Any, Any]


def picture(n: int = 1, height: int = 48, width: int = 80, seed: int = 1) -> torch.Tensor:
    random = np.random.default_rng(seed)
    blocks = random.random((n, 1, height // 8, width // 8)).repeat(8, 2).repeat(8, 3)
    return torch.from_numpy((0.7 * blocks + 0.3 * random.random((n, 1, height, width))).astype(np.float32))


def random_boxes(random: np.random.Generator, n: int, spread: float, size: float) -> Array:
    corner = random.random((n, 2)) * spread
    return np.concatenate([corner, corner + size * (0.3 + random.random((n, 2)))], axis=1).astype(np.float32)


# Boxes


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_coding_of_boxes_goes_there_and_back(seed: int) -> None:
    random = np.random.default_rng(seed)
    boxes, anchors = (torch.from_numpy(random_boxes(random, 20, 500, s)) for s in (40, 90))
    for weights in ((1.0, 1.0, 1.0, 1.0), BOX_WEIGHTS):
        torch.testing.assert_close(decode(encode(boxes, anchors, weights), anchors, weights), boxes, atol=1e-3, rtol=0)


def test_coding_of_boxes_as_it_is_defined() -> None:
    """An anchor of 10 x 20 px; the box is 1 px further right, 4 px further down, twice as wide, and half as high."""
    anchor, box = torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[-4.0, 9.0, 16.0, 19.0]])
    expected = torch.tensor([[1 / 10, 4 / 20, np.log(2), np.log(0.5)]], dtype=torch.float32)
    torch.testing.assert_close(encode(box, anchor, (1.0, 1.0, 1.0, 1.0)), expected)


def test_clipping_and_overlap() -> None:
    boxes = torch.tensor([[-3.0, 2.0, 12.0, 9.0], [20.0, 20.0, 30.0, 30.0]])
    assert clip(boxes, height=8, width=10).tolist() == [[0, 2, 10, 8], [10, 8, 10, 8]]
    both, union = overlaps(torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.tensor([[2.0, 1.0, 6.0, 3.0], [9, 9, 9, 9]]))
    assert both.tolist() == [[2, 0]]
    assert union.tolist() == [[14, 8]]


def test_anchors_lie_on_the_grid_of_features() -> None:
    config = replace(TINY, anchor_px=(32.0, 64.0, 128.0, 256.0))
    anchors = level_anchors(config, 1, height=2, width=3, like=torch.zeros(1))
    assert anchors.shape == (2 * 3 * 3, 4)
    assert anchors[:3].tolist() == [[-45, -23, 45, 23], [-32, -32, 32, 32], [-23, -45, 23, 45]]
    stride = config.strides[1]
    assert anchors[3 + 1].tolist() == [stride - 32, -32, stride + 32, 32]  # one feature to the right
    assert anchors[9 + 1].tolist() == [-32, stride - 32, 32, stride + 32]  # one feature down


# Suppression


def greedy(boxes: Array, threshold: float, classes: Array | None = None) -> list[int]:
    kept: list[int] = []
    both, union = (v.numpy() for v in overlaps(torch.from_numpy(boxes), torch.from_numpy(boxes)))
    for i in range(len(boxes)):
        rivals = [k for k in kept if classes is None or classes[k] == classes[i]]
        if not any(both[k, i] > np.float32(threshold) * union[k, i] for k in rivals):
            kept.append(i)
    return kept


@given(st.integers(0, 10**6), st.sampled_from([20.0, 60.0, 300.0]), st.sampled_from([0.1, 0.3, 0.7]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_suppression_is_the_greedy_rule(seed: int, spread: float, threshold: float, several: bool) -> None:
    random = np.random.default_rng(seed)
    boxes = random_boxes(random, 60, spread, 20)
    classes = random.integers(0, 3, 60) if several else None
    given_classes = None if classes is None else torch.from_numpy(classes)
    keep = suppress(torch.from_numpy(boxes), threshold, 60, given_classes)
    assert keep.nonzero()[:, 0].tolist() == greedy(boxes, threshold, classes)


@pytest.mark.parametrize("depth", [1, 2, 5, 16])
def test_the_longest_chain_that_a_depth_settles(depth: int) -> None:
    """Each box of a chain doubles the next one only: greedily every second stays. More than depth + 1 go wrong."""
    for length, right in ((depth + 1, True), (depth + 2, False)):
        x = np.arange(length, dtype=np.float32) * 5
        boxes = np.stack([x, 0 * x, x + 8, 0 * x + 8], axis=1)
        keep = suppress(torch.from_numpy(boxes), 0.2, depth)
        assert (keep.nonzero()[:, 0].tolist() == greedy(boxes, 0.2)) == right


def test_no_crowded_picture_needs_the_default_depth() -> None:
    random = np.random.default_rng(0)
    for crowd in range(3):
        boxes = random_boxes(random, 300, 80 * (crowd + 1), 30)
        keep = suppress(torch.from_numpy(boxes), 0.5, MaskRCNNConfig().suppression_depth)
        assert keep.nonzero()[:, 0].tolist() == greedy(boxes, 0.5)


def test_peaks_are_anchors_that_no_neighbour_beats() -> None:
    logits = torch.randn(2, 5 * 7 * 3, generator=torch.Generator().manual_seed(0))
    found = peaks(logits, 5, 7).reshape(2, 5, 7, 3)
    maps = logits.reshape(2, 5, 7, 3)
    for n, y, x, shape in np.ndindex(2, 5, 7, 3):
        around = maps[n, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        expected = maps[n, y, x, shape] if maps[n, y, x, shape] == around.max() else NOTHING
        assert found[n, y, x, shape] == expected


# RoIAlign


def bilinear(features: Array, y: float, x: float) -> Array:
    """Between four features; beyond the outermost ones they are repeated."""
    height, width = features.shape[1:]
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = features[:, y0, x0] * (1 - x + x0) + features[:, y0, x1] * (x - x0)
    bottom = features[:, y1, x0] * (1 - x + x0) + features[:, y1, x1] * (x - x0)
    return top * (1 - y + y0) + bottom * (y - y0)


def slow_roi_align(maps: list[Array], box: Array, size: int, config: MaskRCNNConfig) -> Array:
    """One box: its level, then in each cell of the square the mean of 2 x 2 samples."""
    side = np.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    level = int(np.clip(np.floor(2 + np.log2(side / config.canonical_px + 1e-9)), 0, 3))
    features, (x0, y0, x1, y1) = maps[level], box / config.strides[level]
    width, height, shift = x1 - x0, y1 - y0, 0.5
    if not config.roi_aligned:
        width, height, shift = max(width, 1), max(height, 1), 0.0
    out = np.zeros((features.shape[0], size, size))
    for row in range(size):
        for column in range(size):
            for sy in (0.25, 0.75):
                for sx in (0.25, 0.75):
                    y = y0 - shift + (row + sy) * height / size
                    x = x0 - shift + (column + sx) * width / size
                    out[:, row, column] += bilinear(features, y, x) / 4
    return out


@pytest.mark.parametrize("form", ["rows", "gridsample"])
@pytest.mark.parametrize("aligned", [True, False])
@given(st.integers(0, 10**6))
@settings(max_examples=6, deadline=None)
def test_roi_align_is_what_the_loops_say(aligned: bool, form: RoiForm, seed: int) -> None:
    config = replace(TINY, roi_aligned=aligned, canonical_px=32.0)
    random = np.random.default_rng(seed)
    height, width = 64, 96
    maps = [random.random((2, 2, height // s, width // s)).astype(np.float32) for s in config.strides]
    corners = np.sort(random.random((2, 6, 2, 2)), axis=2) ** random.choice([0.3, 1, 3])
    boxes = (corners * (width, height)).reshape(2, 6, 4).astype(np.float32)
    boxes[0, 0] = (0, 0, width, height)
    boxes[0, 1] = 0  # nothing at all: what fills up
    given_maps = [torch.from_numpy(m) for m in maps]
    found = RoiAlign(config, form)(given_maps, torch.from_numpy(boxes), 5).reshape(2, 6, 2, 5, 5)
    for n in range(2):
        for k in range(6):
            expected = slow_roi_align([m[n] for m in maps], boxes[n, k], 5, config)
            np.testing.assert_allclose(found[n, k].numpy(), expected, atol=2e-4)


# The whole


def slow_detections(module: MaskRCNN, image: torch.Tensor) -> dict[str, Array]:
    """The textbook's way on one picture: lists that shrink, greedy suppression, as torchvision does it."""
    config = module.config
    height, width = image.shape[2:]
    maps = module.features(image)
    proposals: list[tuple[float, Array]] = []
    for level, (logits, deltas) in enumerate(zip(*module.rpn.head(maps), strict=True)):
        anchors = level_anchors(config, level, maps[level].shape[2], maps[level].shape[3], image)
        best = torch.argsort(-logits[0], stable=True)[: config.candidates]
        boxes = clip(decode(deltas[0, best], anchors[best], (1.0, 1.0, 1.0, 1.0)), height, width)
        large = ((boxes[:, 2:] - boxes[:, :2]) >= 1e-3).all(1)
        best, boxes = best[large], boxes[large]
        proposals += [(float(logits[0, best[i]]), boxes[i].numpy()) for i in greedy(boxes.numpy(), config.proposal_iou)]
    proposals = sorted(proposals, key=lambda p: -p[0])[: config.proposals]
    rois = torch.from_numpy(np.stack([box for _, box in proposals]))[None]
    logits, deltas = module.classify(maps, rois)
    scores = torch.softmax(logits[0], 1)
    found = []
    for kind in range(1, config.classes + 1):
        boxes = clip(decode(deltas[0, :, kind], rois[0], BOX_WEIGHTS), height, width)
        order = [int(i) for i in torch.argsort(-scores[:, kind]) if scores[i, kind] > config.min_score]
        kept = greedy(boxes[order].numpy(), config.detection_iou)
        found += [(float(scores[order[i], kind]), kind - 1, boxes[order[i]]) for i in kept]
    found = sorted(found, key=lambda f: -f[0])[: config.detections]
    boxes, kinds = torch.stack([f[2] for f in found])[None], torch.tensor([[f[1] for f in found]])
    masks = torch.sigmoid(module.mask_logits(maps, boxes, kinds))[0]
    values = {"scores": torch.tensor([f[0] for f in found]), "classes": kinds[0], "masks": masks}
    return {**{k: v.numpy() for k, v in values.items()}, "boxes": boxes[0][:, [1, 0, 3, 2]].numpy()}


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("levels", [4, 5])
def test_fixed_shapes_answer_like_the_textbook(classes: int, levels: int) -> None:
    config = replace(TINY, classes=classes, anchor_px=(8.0, 16.0, 32.0, 64.0, 128.0)[:levels], min_score=0.5 / classes)
    module = detector(config)
    image = picture(2, 3 * config.divisor[0], 4 * config.divisor[1])
    with torch.inference_mode():
        answer = {name: value.numpy() for name, value in module(image).items()}
        assert list(answer) == [output.name for output in config.outputs]
        for n in range(2):
            expected = slow_detections(module, image[n : n + 1])
            count = int(answer["count"][n])
            assert count == len(expected["scores"]) > 3
            for name, values in expected.items():
                np.testing.assert_allclose(answer[name][n, :count], values, atol=2e-4, err_msg=name)
                assert not answer[name][n, count:].any()


def test_the_smallest_picture_and_the_smallest_answer() -> None:
    """Fewer anchors than candidates, fewer proposals than places: what is missing is filled up and not counted."""
    with torch.inference_mode():
        answer = detector(replace(TINY, candidates=500, proposals=500, min_score=0.0))(picture(1, 16, 16))
        assert 0 < int(answer["count"][0]) <= 12
        boxes = answer["boxes"][0, : int(answer["count"][0])]
        assert ((boxes >= 0) & (boxes <= 16)).all()
        assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()
        nothing = detector(replace(TINY, min_score=0.999))(picture(2))
    assert all(not value.any() for value in nothing.values())
    assert nothing["masks"].shape == (2, 12, 28, 28)


def test_a_picture_does_not_see_the_others_of_its_batch() -> None:
    module, images = detector(), picture(3)
    with torch.inference_mode():
        together, alone = module(images), module(images[1:2])
    for name, value in alone.items():
        torch.testing.assert_close(together[name][1:2], value, atol=1e-4, rtol=0)


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="4 or 5"):
        replace(TINY, anchor_px=(8.0, 16.0))
    with pytest.raises(ValueError, match="cannot come from"):
        replace(TINY, proposals=161)
    with pytest.raises(ValueError, match="at least 1"):
        replace(TINY, detections=0)


# Weights


def torchvision_names(config: MaskRCNNConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a state dictionary of torchvision's `maskrcnn_resnet50_fpn`, written down from its source."""
    names: dict[str, tuple[int, ...]] = {}

    def norm(place: str, n: int) -> None:
        names.update({f"{place}.{part}": (n,) for part in ("weight", "bias", "running_mean", "running_var")})

    def both(place: str, *shape: int, out: int | None = None) -> None:
        names.update({f"{place}.weight": shape, f"{place}.bias": (out or shape[0],)})

    body = "backbone.body"
    names[f"{body}.conv1.weight"] = (64, 3, 7, 7)
    norm(f"{body}.bn1", 64)
    source = 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), 1):
        for block in range(blocks):
            place = f"{body}.layer{stage}.{block}"
            for i, shape in enumerate(((width, source, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)), 1):
                names[f"{place}.conv{i}.weight"] = shape
                norm(f"{place}.bn{i}", shape[0])
            if block == 0:
                names[f"{place}.downsample.0.weight"] = (4 * width, source, 1, 1)
                norm(f"{place}.downsample.1", 4 * width)
            source = 4 * width
    for i in range(4):
        both(f"backbone.fpn.inner_blocks.{i}.0", 256, 256 * 2**i, 1, 1)
        both(f"backbone.fpn.layer_blocks.{i}.0", 256, 256, 3, 3)
        both(f"roi_heads.mask_head.{i}.0", 256, 256, 3, 3)
    both("rpn.head.conv.0.0", 256, 256, 3, 3)
    both("rpn.head.cls_logits", 3, 256, 1, 1)
    both("rpn.head.bbox_pred", 12, 256, 1, 1)
    both("roi_heads.box_head.fc6", 1024, 256 * 49)
    both("roi_heads.box_head.fc7", 1024, 1024)
    both("roi_heads.box_predictor.cls_score", config.classes + 1, 1024)
    both("roi_heads.box_predictor.bbox_pred", 4 * (config.classes + 1), 1024)
    both("roi_heads.mask_predictor.conv5_mask", 256, 256, 2, 2)
    both("roi_heads.mask_predictor.mask_fcn_logits", config.classes + 1, 256, 1, 1)
    return names


def test_parameters_have_torchvisions_names_and_shapes() -> None:
    config = MaskRCNNConfig(classes=90)
    with torch.device("meta"):
        state = MaskRCNN(config).state_dict()
    own = {"pixel_mean", "pixel_std"}
    found = {k: tuple(v.shape) for k, v in state.items() if k not in own and not k.endswith("num_batches_tracked")}
    assert found == torchvision_names(config)


def test_a_compressed_head_is_the_best_of_its_rank() -> None:
    module = detector()
    layer = module.roi_heads.box_head.fc6
    small = compress(module, 5)
    u, s, v = np.linalg.svd(layer.weight.detach().numpy().astype(np.float64), full_matrices=False)
    x = torch.randn(3, layer.in_features)
    expected = x.numpy() @ ((u[:, :5] * s[:5]) @ v[:5]).T + layer.bias.detach().numpy()
    with torch.inference_mode():
        np.testing.assert_allclose(small.roi_heads.box_head.fc6(x).numpy(), expected, atol=1e-4)
        nearly, whole = compress(module, 15)(picture()), module(picture())
    assert small.config.svd_rank == 5
    assert int(nearly["count"][0]) == int(whole["count"][0])
    for rank in (0, 16):
        with pytest.raises(UsageError, match=r"1 \.\.\. 15"):
            compress(module, rank)
    with pytest.raises(UsageError, match="already"):
        compress(small, 3)
