"""Instances: foreground with a distance or a gap, or boundaries; cells by the production decoder, scored one by one."""

from __future__ import annotations

from functools import partial

import numpy as np

from cellengine.engine.infer import infer_array
from cellengine.metrics import evaluate_instances, evaluate_partition, mean_over_pictures, pool
from cellengine.models.session import TorchSession
from cellengine.train.recipe import Validation
from cellengine.train.recipes.maps import MapRecipe
from cellengine.train.report import Panel, draw_labels, few


class Instances(MapRecipe):
    """See `Recipe`."""

    def score(self, session: TorchSession) -> Validation:
        """The score is the mean AP over IoU 0.5 ... 0.95. Of volumes also what report B counted."""
        shown = few(len(self.truth))
        each, kinds, volumes, panels = [], [], [], []
        for i, picture in enumerate(self.truth):
            found = infer_array(picture.image, session).labels
            each.append(evaluate_instances(picture.labels, found))
            kinds.append(picture.item.kind)
            if i in shown:
                panels.append(Panel(picture.item.image.name, picture.image, picture.labels, found))
            if picture.labels.ndim == 3:
                inside = (picture.labels > 0, found > 0)
                volumes.append(
                    {
                        "cell_iou": float((inside[0] & inside[1]).sum() / max(1, (inside[0] | inside[1]).sum())),
                        "wrong_cells": abs(int(found.max(initial=0)) - len(np.unique(picture.labels[inside[0]]))),
                        "voi": evaluate_partition(picture.labels, found).voi,
                    }
                )
        mean = mean_over_pictures(each)
        scores = {"mean_ap": mean["mean_ap"], "ap50": mean["ap0.5"]}
        for kind in dict.fromkeys(k for k in kinds if k):
            part = mean_over_pictures([s for s, k in zip(each, kinds, strict=True) if k == kind])
            scores[f"ap50_{kind}"] = part["ap0.5"]
        if volumes:
            total = pool(each)
            scores["f1_50"] = total.at(0.5).f1
            scores["cell_iou"] = float(np.mean([v["cell_iou"] for v in volumes]))
            scores["wrong_cells"] = float(sum(v["wrong_cells"] for v in volumes))
            scores["voi"] = float(np.mean([v["voi"] for v in volumes]))
        return Validation(mean["mean_ap"], scores, partial(draw_labels, panels))
