"""From the answers of a detector on tiles to the objects of a picture, each once, and to its label image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellengine.geometry import Tile
from cellengine.ops.detections import nms_masks, paste_mask, paste_masks
from cellengine.ops.labels import relabel

OWNERSHIP = 0.25
"""of a box's sides: how far beyond the core its centre may lie. Two tiles see one object a little apart; with no such
margin neither might own it. Doubles go by the overlap of their masks."""


@dataclass(frozen=True, slots=True)
class Detected:
    """Objects in a picture, in no order."""

    boxes: NDArray[np.float32]
    """(n, 4): y0, x0, y1, x1 in px of the picture; may leave it"""
    scores: NDArray[np.float32]
    """(n,), 0..1"""
    classes: NDArray[np.int64]
    """(n,), numbers of classes from 0"""
    masks: NDArray[np.float32]
    """(n, m, m): probability of the object over its box"""

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: NDArray[Any]) -> Detected:
        """The objects that an index or a boolean array chooses."""
        return Detected(self.boxes[chosen], self.scores[chosen], self.classes[chosen], self.masks[chosen])


def detected_in_tile(outputs: Mapping[str, NDArray[Any]], place: int, tile: Tile, min_score: float) -> Detected:
    """The objects that belong to `tile`, which was number `place` of the batch that a detector answered.

    outputs: boxes (N, K, 4), scores (N, K), classes (N, K), masks (N, K, m, m), count (N,), boxes in px of the tile.
    An object belongs to the tile whose core holds its centre, give or take a quarter of its size.
    """
    count = int(outputs["count"][place])
    scores = np.asarray(outputs["scores"][place][:count], np.float32)
    boxes = np.asarray(outputs["boxes"][place][:count], np.float32)
    boxes = boxes + np.tile(np.asarray(tile.read.start[-2:], np.float32), 2)
    centre, margin = (boxes[:, :2] + boxes[:, 2:]) / 2, OWNERSHIP * (boxes[:, 2:] - boxes[:, :2])
    start, stop = np.asarray(tile.core.start[-2:]), np.asarray(tile.core.stop[-2:])
    kept = (scores >= min_score) & ((centre >= start - margin) & (centre < stop + margin)).all(axis=1)
    classes = np.asarray(outputs["classes"][place][:count], np.float32)
    masks = np.asarray(outputs["masks"][place][:count], np.float32)
    return Detected(boxes[kept], scores[kept], np.rint(classes[kept]).astype(np.int64), masks[kept])


def join_detected(parts: Sequence[Detected]) -> Detected:
    """The objects of several tiles together, doubles included."""
    return Detected(
        np.concatenate([np.zeros((0, 4), np.float32), *(p.boxes for p in parts)]),
        np.concatenate([np.zeros(0, np.float32), *(p.scores for p in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(p.classes for p in parts)]),
        np.concatenate([p.masks for p in parts]) if parts else np.zeros((0, 1, 1), np.float32),
    )


def drop_doubles(found: Detected, max_iou: float, shape: tuple[int, int]) -> Detected:
    """Without objects whose mask overlaps that of a better one of any class above `max_iou`; best first.

    `shape` is that of the picture. Equal scores are taken from top left to bottom right, whatever tile they came from.
    O(sum of box areas + pairs that meet), one byte a pixel of each box.
    """
    found = found[np.lexsort((*found.boxes.T[::-1], -found.scores))]
    pasted = [paste_mask(box.tolist(), mask, shape) for box, mask in zip(found.boxes, found.masks, strict=True)]
    boxes = np.array([box for box, _ in pasted], np.int64).reshape(-1, 4)
    solid = np.array([mask.any() for _, mask in pasted], bool)
    kept = nms_masks(boxes, [mask for _, mask in pasted], found.scores, max_iou)
    return found[kept[solid[kept]]]


def label_detected(found: Detected, shape: tuple[int, int]) -> tuple[NDArray[np.uint32], Detected]:
    """A label image of `shape`, and its objects in order of label: object i is label i + 1.

    Labels are numbered in raster order of first pixel, the higher score lies on top; objects that better ones cover
    entirely are left out. 8 bytes a pixel.
    """
    return number_detected(paste_masks(found.boxes, found.masks, shape, found.scores), found)


def number_detected(pasted: NDArray[np.integer[Any]], found: Detected) -> tuple[NDArray[np.uint32], Detected]:
    """Labels 1 ... n in raster order of first pixel of an image where object i is i + 1; and those objects in order."""
    labels = relabel(pasted)
    origin = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    origin[labels] = pasted
    return labels, found[origin[1:] - 1]
