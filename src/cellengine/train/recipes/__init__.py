"""How each task is trained: a plain dict from task to recipe."""

from __future__ import annotations

from collections.abc import Callable

from cellengine.spec import Task
from cellengine.train.config import TrainConfig
from cellengine.train.recipe import Batch, Recipe, Validation
from cellengine.train.recipes.boundary import Boundary
from cellengine.train.recipes.classes import Classes
from cellengine.train.recipes.detections import Detections
from cellengine.train.recipes.instances import Instances
from cellengine.train.recipes.semantic import Semantic

RECIPES: dict[Task, Callable[[TrainConfig], Recipe]] = {
    "instances": Instances,
    "boundary": Boundary,
    "semantic": Semantic,
    "classification": Classes,
    "detection": Detections,
}

__all__ = ["RECIPES", "Batch", "Recipe", "Validation"]
