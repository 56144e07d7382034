"""The five losses of Mask R-CNN (He et al. 2017), on a fixed number of anchors and boxes of each picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from cellengine.models.detection.boxes import clip, encode, overlaps
from cellengine.models.detection.heads import MASK_SIZE
from cellengine.models.detection.mask_rcnn import BOX_WEIGHTS, MaskRCNN
from cellengine.models.detection.proposals import NOTHING, take
from cellengine.train.detection.settings import DetectionConfig
from cellengine.train.recipe import Batch

BETA = 1 / 9
"""below this an error of a coded box counts by its square (Huber); torchvision's"""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Boxes that the heads learn from; of each picture the first P places are for boxes on objects."""

    boxes: torch.Tensor
    """(N, R, 4)"""
    owner: torch.Tensor
    """(N, P): number of the object under each of the first P"""
    is_object: torch.Tensor
    """(N, P): whether that place holds a box on an object; others only fill up"""
    is_background: torch.Tensor
    """(N, R - P): the same of the places for background"""


def detection_losses(module: MaskRCNN, batch: Batch, settings: DetectionConfig) -> dict[str, torch.Tensor]:
    """Every term by name. `batch` is as `ObjectSamples` gives it, stacked; random choices come from torch's generator.

    `objectness` and `anchor_box` teach the proposals; `class`, `box` and `mask` the heads.
    """
    image, objects, boxes, anchors, state, deltas = batch
    maps = module.features(image)
    logits, coded = module.rpn.head(maps)
    terms = proposal_losses(torch.cat(logits, 1), torch.cat(coded, 1), anchors, state, deltas)
    with torch.no_grad():
        detached = [[t.detach() for t in values] for values in (logits, coded)]
        proposals, scores = module.rpn(maps, *detached, candidates=settings.candidates, count=settings.proposals)
        sampled = sample_boxes(proposals, scores > NOTHING / 2, boxes, objects.shape[1:], settings)
    class_logits, box_deltas = module.classify(maps, sampled.boxes)
    terms |= head_losses(class_logits, box_deltas, sampled, boxes)
    places = sampled.owner.shape[1]
    on_objects = sampled.boxes[:, :places]
    mask_logits = module.mask_logits(maps, on_objects, torch.zeros_like(sampled.owner))
    targets = mask_targets(objects, on_objects, sampled.owner)
    per_box = functional.binary_cross_entropy_with_logits(mask_logits, targets, reduction="none").mean((2, 3))
    terms["mask"] = _mean(per_box, sampled.is_object)
    return terms


def proposal_losses(
    logits: torch.Tensor, coded: torch.Tensor, anchors: torch.Tensor, state: torch.Tensor, deltas: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Losses of proposals: logits (N, A) and coded boxes (N, A, 4) of all anchors; the rest as in `ObjectSamples`."""
    chosen = torch.gather(logits, 1, anchors)
    used = (state >= 0).float()
    objectness = functional.binary_cross_entropy_with_logits(chosen, state.clamp_min(0), reduction="none")
    errors = functional.smooth_l1_loss(take(coded, anchors), deltas, reduction="none", beta=BETA).sum(2)
    return {
        "objectness": _mean(objectness, used),
        "anchor_box": (errors * (state == 1)).sum() / used.sum().clamp_min(1),
    }


def sample_boxes(
    proposals: torch.Tensor,
    is_proposal: torch.Tensor,
    objects: torch.Tensor,
    shape: tuple[int, ...],
    settings: DetectionConfig,
) -> Sampled:
    """Choose `settings.boxes` of each picture's proposals (N, K, 4) and true boxes `objects` (N, n, 4), at random.

    `shape` is that of the pictures. Empty boxes among `objects` are none. A true box counts as a proposal, moved a
    little by `settings.box_jitter`, so that there is always one to learn from.
    """
    low, high = settings.box_iou
    exists = objects[..., 2] > objects[..., 0]
    sides = (objects[..., 2:] - objects[..., :2]).repeat(1, 1, 2)
    moved = clip(objects + settings.box_jitter * sides * torch.randn_like(objects), *shape)
    candidates, valid = torch.cat([proposals, moved], 1), torch.cat([is_proposal, exists], 1)
    both, union = overlaps(candidates, objects)
    iou, owner = (both / union.clamp_min(1e-6)).max(dim=2)
    is_object = valid & (iou >= high)
    is_background = valid & (iou < high) & (iou >= low)
    places = int(settings.boxes * settings.positive_boxes)
    lot = torch.rand(iou.shape, device=iou.device)
    first = torch.topk(lot + 2 * is_object, places, dim=1).indices
    second = torch.topk(lot + 2 * is_background, settings.boxes - places, dim=1).indices
    return Sampled(
        take(candidates, torch.cat([first, second], 1)),
        torch.gather(owner, 1, first),
        torch.gather(is_object, 1, first).float(),
        torch.gather(is_background, 1, second).float(),
    )


def head_losses(
    logits: torch.Tensor, deltas: torch.Tensor, sampled: Sampled, objects: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Losses of class and box: logits (N, R, 2) and deltas (N, R, 2, 4) of the sampled boxes, true boxes (N, n, 4)."""
    places = sampled.owner.shape[1]
    used = torch.cat([sampled.is_object, sampled.is_background], 1)
    truth = torch.zeros_like(used, dtype=torch.int64)
    truth[:, :places] = 1
    classes = functional.cross_entropy(logits.transpose(1, 2), truth, reduction="none")
    goal = encode(take(objects, sampled.owner), sampled.boxes[:, :places], BOX_WEIGHTS)
    errors = functional.smooth_l1_loss(deltas[:, :places, 1], goal, reduction="none", beta=BETA).sum(2)
    return {
        "class": _mean(classes, used),
        "box": torch.where(sampled.is_object > 0, errors, 0.0).sum() / used.sum().clamp_min(1),
    }


def mask_targets(objects: torch.Tensor, boxes: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """Masks (N, P, 28, 28) of 0 and 1: object `owner` (N, P) of the label image `objects` (N, Y, X) under `boxes`.

    Bilinear between pixel centres, at least one half; outside the picture its border goes on.
    """
    n, places = owner.shape
    height, width = objects.shape[1:]
    side = 2 * MASK_SIZE
    at = (torch.arange(side, device=boxes.device) + 0.5) / side
    x = (boxes[..., 0:1] + at * (boxes[..., 2:3] - boxes[..., 0:1]) - 0.5).clamp(0, width - 1)
    y = (boxes[..., 1:2] + at * (boxes[..., 3:4] - boxes[..., 1:2]) - 0.5).clamp(0, height - 1)
    flat, name = objects.flatten(1), (owner + 1)[..., None, None]
    share = torch.zeros(n, places, side, side, device=boxes.device)
    for down in (0, 1):
        for right in (0, 1):
            row, column = (
                (y.floor().long() + down).clamp(max=height - 1),
                (x.floor().long() + right).clamp(max=width - 1),
            )
            weight_y, weight_x = 1 - (y - (y.floor() + down)).abs(), 1 - (x - (x.floor() + right)).abs()
            index = row[..., :, None] * width + column[..., None, :]
            found = torch.gather(flat, 1, index.flatten(1)).reshape(index.shape) == name
            share += found * weight_y[..., :, None] * weight_x[..., None, :]
    return (share >= 0.5).float()


def _mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1)
