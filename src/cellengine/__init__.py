"""cellengine: from microscope images to labelled cells and a table of measurements.

    import cellengine
    result = cellengine.infer("picture.tif", model="nuclei")
    result.labels, result.objects

The rooms `cellengine.ops`, `cellengine.metrics` and `cellengine.io` can be used alone. Nothing heavy is imported
before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellengine.engine.api import infer, load_model
    from cellengine.engine.infer import Result

_HOMES = {
    "infer": "cellengine.engine.api",
    "load_model": "cellengine.engine.api",
    "Result": "cellengine.engine.infer",
}
_ROOMS = ("io", "metrics", "ops")

__all__ = ["Result", "infer", "load_model"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return import_module(f"cellengine.{name}")
    raise AttributeError(f"module 'cellengine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
