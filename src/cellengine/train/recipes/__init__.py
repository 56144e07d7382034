"""How each task is trained: a plain dict from task to recipe."""

from __future__ import annotations

from collections.abc import Callable

from cellengine.spec import Task
from cellengine.train.config import TrainConfig
from cellengine.train.recipe import Batch, Recipe, Validation
from cellengine.train.recipes.instances import Instances

RECIPES: dict[Task, Callable[[TrainConfig], Recipe]] = {"instances": Instances}

__all__ = ["RECIPES", "Batch", "Recipe", "Validation"]
