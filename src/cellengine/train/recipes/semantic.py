"""Classes of pixels: a class map by the production decoder, scored class by class over all validation pictures."""

from __future__ import annotations

from functools import partial

import numpy as np

from cellengine.engine.infer import infer_array
from cellengine.metrics import evaluate_semantic, pool
from cellengine.models.session import TorchSession
from cellengine.train.recipe import Validation
from cellengine.train.recipes.maps import MapRecipe
from cellengine.train.report import Panel, draw_classes, few
from cellengine.train.targets import class_ids


class Semantic(MapRecipe):
    """See `Recipe`."""

    def score(self, session: TorchSession) -> Validation:
        """The score is the mean Dice over classes, of all pictures taken as one."""
        config, shown = self.config, few(len(self.truth))
        values = config.data.mask_values or tuple(range(len(config.classes)))
        each, panels = [], []
        for i, picture in enumerate(self.truth):
            found = infer_array(picture.image, session).labels
            truth, unknown = class_ids(picture.labels, values, config.data.ignore_value, str(picture.item.label))
            known = np.ones(truth.shape, bool) if unknown is None else ~unknown
            each.append(evaluate_semantic(truth[known], found[known], len(config.classes)))
            if i in shown:
                panels.append(Panel(picture.item.image.name, picture.image, truth, found))
        total = pool(each)
        scores = {
            "mean_dice": total.mean_dice,
            **{f"dice_{name}": float(d) for name, d in zip(config.classes, total.dice, strict=True)},
            "mean_iou": total.mean_iou,
            "frequency_weighted_iou": total.frequency_weighted_iou,
            "pixel_accuracy": total.pixel_accuracy,
            "mean_accuracy": total.mean_accuracy,
        }
        return Validation(total.mean_dice, scores, partial(draw_classes, panels, len(config.classes)))
