"""Scores to labels: the decoder that the model's spec names, on whole pictures in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from cellengine.engine.predict import SCORE_STEPS, Scores
from cellengine.engine.resample import Grid
from cellengine.errors import ModelError
from cellengine.ops import boundary_watershed, components, distance_watershed, measure_objects, relabel
from cellengine.ops.threads import run_threads, split_range, worker_count
from cellengine.spec import BoundaryWatershed, Components, Decoder, DistanceWatershed

Array = np.ndarray[Any, Any]


def label(scores: Scores, decoder: Decoder, voxel_size: tuple[float, ...] | None = None) -> Array:
    """Labels of a picture, uint32, 1 ... n in raster order of first voxel. `scores` are as `predict` gives them.

    voxel_size: of the scores, one length an axis in any unit. Where voxels are not as long as wide, lengths in px are
    those of the shortest side: smoothing is less along the others, distances count them longer.

    Memory: 4 bytes a voxel for the labels and 4 for each score that the decoder reads; for `boundary_watershed` 24
    more while it works.
    """
    if isinstance(decoder, DistanceWatershed):
        foreground = _floats(scores, "foreground")
        found = distance_watershed(
            foreground,
            _floats(scores, "distance"),
            threshold=decoder.threshold,
            smoothing_px=_per_axis(decoder.smoothing_px, voxel_size),
            h=decoder.h,
            h_per_px=decoder.h_per_px,
            min_size_px=decoder.min_size_px,
            max_hole_px=decoder.max_hole_px,
            connectivity=decoder.connectivity,
        )
        return drop_doubtful(found, foreground, decoder.min_score) if decoder.min_score > 0 else found
    if isinstance(decoder, Components):
        return components(
            _floats(scores, "foreground"),
            threshold=decoder.threshold,
            grow_px=decoder.grow_px,
            min_size_px=decoder.min_size_px,
            connectivity=decoder.connectivity,
        )
    if isinstance(decoder, BoundaryWatershed):
        return boundary_watershed(
            _floats(scores, "boundary"),
            threshold=decoder.threshold,
            voxel_size=_relative(voxel_size),
            smoothing_px=_per_axis(decoder.smoothing_px, voxel_size),
            min_size_px=decoder.min_size_px,
            merge_below=decoder.merge_below,
            foreground=scores["foreground"][0] > decoder.foreground * SCORE_STEPS if "foreground" in scores else None,
            connectivity=decoder.connectivity,
        )
    raise ModelError(f"The decoder {decoder.kind!r} is not known to this version of infer: update cellengine.")


def on_picture(labels: Array, grid: Grid) -> Array:
    """Labels of the network's grid on the picture's by nearest neighbour, numbered 1 ... n in raster order again."""
    found = grid.whole_to_image(labels)
    return relabel(found) if grid.loses else found


def drop_doubtful(labels: Array, foreground: Array, min_score: float) -> Array:
    """Remove objects whose mean foreground is below `min_score` and close the gaps in the numbering, in place.

    `labels` is contiguous, uint32, numbered 1 ... n without gaps.
    """
    found = measure_objects(labels, foreground)
    kept = found.intensity_mean[:, 0] >= min_score
    if not kept.all():
        names = np.zeros(len(found) + 1, np.uint32)
        names[found.label] = np.where(kept, np.cumsum(kept), 0)
        flat = labels.reshape(-1)
        run_threads(lambda part: _rename(flat, names, *part), split_range(flat.size, worker_count()))
    return labels


@njit(nogil=True, cache=True)
def _rename(labels: Array, names: Array, begin: int, end: int) -> None:
    for i in range(begin, end):
        if labels[i]:
            labels[i] = names[labels[i]]


def _relative(voxel_size: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """The sides of a voxel in units of its shortest one."""
    return None if voxel_size is None else tuple(v / min(voxel_size) for v in voxel_size)


def _per_axis(length_px: float, voxel_size: tuple[float, ...] | None) -> float | tuple[float, ...]:
    """A length in px of the shortest side in px of every axis."""
    sides = _relative(voxel_size)
    return length_px if sides is None else tuple(length_px / side for side in sides)


def _floats(scores: Scores, name: str) -> Array:
    """One score map as float32 in 0..1."""
    values: Array = np.multiply(scores[name][0], np.float32(1 / SCORE_STEPS), dtype=np.float32)
    return values
