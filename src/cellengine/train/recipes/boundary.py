"""Boundaries of dense tissue: cells are what lies between them, scored as instances, partition and boundary."""

from __future__ import annotations

from functools import partial

from cellengine.engine.infer import infer_array
from cellengine.metrics import (
    boundaries_of,
    evaluate_boundaries,
    evaluate_instances,
    evaluate_partition,
    mean_over_pictures,
    pool,
)
from cellengine.models.session import TorchSession
from cellengine.train.recipe import Validation
from cellengine.train.recipes.maps import MapRecipe
from cellengine.train.report import Panel, draw_labels, few


class Boundary(MapRecipe):
    """See `Recipe`."""

    def score(self, session: TorchSession) -> Validation:
        """The score is the mean AP over IoU 0.5 ... 0.95; beside it the variation of information and boundary F1."""
        shown = few(len(self.truth))
        cells, partitions, boundaries, panels = [], [], [], []
        for i, picture in enumerate(self.truth):
            found = infer_array(picture.image, session).labels
            cells.append(evaluate_instances(picture.labels, found))
            partitions.append(evaluate_partition(picture.labels, found))
            lines = (boundaries_of(picture.labels), boundaries_of(found))
            boundaries.append(evaluate_boundaries(*lines, voxel_size=self.spec.voxel_size_um))
            if i in shown:
                panels.append(Panel(picture.item.image.name, picture.image, picture.labels, found))
        mean = mean_over_pictures(cells)
        voi, lines_total = pool(partitions), pool(boundaries)
        scores = {"mean_ap": mean["mean_ap"], "ap50": mean["ap0.5"], "voi": voi.voi, **lines_total.row()}
        return Validation(mean["mean_ap"], scores, partial(draw_labels, panels))
