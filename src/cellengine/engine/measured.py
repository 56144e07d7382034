"""What is known of a picture before the network sees it: measured once in a run, however often that is stopped."""

from __future__ import annotations

from dataclasses import dataclass

from cellengine.engine.checkpoint import Checkpoint
from cellengine.engine.options import InferOptions
from cellengine.engine.run import check_finite
from cellengine.engine.scale import measure_scene
from cellengine.engine.scene import Scene
from cellengine.ops.normalize import Scale
from cellengine.records import from_plain, to_plain
from cellengine.spec import Normalize


@dataclass(frozen=True, slots=True)
class Measured:
    """The intensities of a picture."""

    scale: Scale
    not_finite: int
    """values that are NaN or infinite"""
    constant: bool
    """whether there is nothing to see"""


def measure_once(
    index: int, scene: Scene, config: Normalize, options: InferOptions, checkpoint: Checkpoint | None
) -> Measured:
    """Measure picture number `index`, unless a checkpoint knows it, which it does from then on.

    Raises InputError for values that are no numbers, unless the options say what to do with them.
    """
    kept = None if checkpoint is None else checkpoint.intensities(index)
    if kept is not None:
        return from_plain(Measured, kept)
    found = measure_scene(scene.seen, config)
    if found.not_finite:
        check_finite(scene.source, found, options)
    measured = Measured(found.scale, found.not_finite, found.constant)
    if checkpoint is not None:
        checkpoint.keep_intensities(index, to_plain(measured))
    return measured
