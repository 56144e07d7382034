"""Random, augmented crops with their objects, and the anchors that should find them; all of fixed shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np
import torch
from scipy import ndimage

from cellengine.models.detection.boxes import encode
from cellengine.models.detection.config import MaskRCNNConfig
from cellengine.models.detection.proposals import WEIGHTS
from cellengine.train.config import TrainConfig
from cellengine.train.data import PictureSamples
from cellengine.train.detection.matching import AnchorGrid, match_anchors, sample_anchors
from cellengine.train.prepared import Prepared
from cellengine.train.recipe import Batch, Samples

Array = np.ndarray[Any, Any]


class ObjectSamples(Samples):
    """Crops of `PictureSamples` with what a detector learns of them. Sample `i` depends on its number alone."""

    def __init__(self, pictures: Sequence[Prepared], config: TrainConfig, model: MaskRCNNConfig) -> None:
        self.config = config
        self.crops = PictureSamples(pictures, config)
        self.grid = AnchorGrid.of(model, config.data.crop_px)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> Batch:
        """Of one crop, with n = `detection.objects` and m = `detection.anchors`:

        image (C, Y, X) float32; objects (Y, X) int32, 0 is background and object i is i + 1; their boxes (n, 4)
        float32, x0, y0, x1, y1 in px, empty beyond the last object; numbers of anchors (m,) int64; their state (m,)
        float32: 1 object, 0 background, -1 not used; and what leads from each to its object (m, 4) float32.
        """
        settings = self.config.detection
        image, maps = self.crops[index]
        objects, boxes, count = list_objects(maps[1].numpy(), settings.objects, settings.min_object_px)
        random = np.random.default_rng((self.config.seed, index, 1))
        matches = match_anchors(boxes[:count], self.grid)
        chosen, state = sample_anchors(matches, settings, random)
        anchors, theirs = torch.from_numpy(self.grid.boxes(chosen)), torch.from_numpy(boxes[matches.owner[chosen]])
        deltas = encode(theirs, anchors, WEIGHTS) * torch.from_numpy(state == 1)[:, None]
        tensors = (torch.from_numpy(a) for a in (objects, boxes, chosen, state))
        return (image, *tensors, deltas)


def list_objects(labels: Array, most: int, least_px: int) -> tuple[Array, Array, int]:
    """Number the objects of a crop anew: labels int32 (Y, X), boxes float32 (most, 4), and how many there are.

    `labels` holds whole numbers of any dtype. Each connected piece of a label is an object of its own: where a crop
    leaves its picture, what is mirrored there bears the label of its original. Objects of fewer than `least_px` px, and
    those beyond the first `most`, become background.
    """
    whole = cc3d.connected_components(labels.astype(np.int32), connectivity=8)
    sizes = np.bincount(whole.ravel())
    kept = np.flatnonzero(sizes >= least_px)
    kept = kept[kept > 0][:most]
    names = np.zeros(len(sizes), np.int32)
    names[kept] = np.arange(1, len(kept) + 1)
    objects = names[whole]
    boxes = np.zeros((most, 4), np.float32)
    for i, (y, x) in enumerate(ndimage.find_objects(objects)):
        boxes[i] = x.start, y.start, x.stop, y.stop
    return objects, boxes, len(kept)
