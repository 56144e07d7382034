"""Scores to labels: the decoder that the model's spec names, on whole pictures in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from cellengine.engine.predict import SCORE_STEPS, Scores
from cellengine.errors import ModelError
from cellengine.ops import components, distance_watershed, measure_objects
from cellengine.ops.threads import run_threads, split_range, worker_count
from cellengine.spec import Components, Decoder, DistanceWatershed

Array = np.ndarray[Any, Any]


def label(scores: Scores, decoder: Decoder) -> Array:
    """Labels of a picture, uint32, 1 ... n in raster order of first voxel. `scores` are as `predict` gives them.

    Memory: 4 bytes a voxel for the labels and 4 for each score that the decoder reads.
    """
    if isinstance(decoder, DistanceWatershed):
        foreground = _floats(scores, "foreground")
        found = distance_watershed(
            foreground,
            _floats(scores, "distance"),
            threshold=decoder.threshold,
            smoothing_px=decoder.smoothing_px,
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
    raise ModelError(f"The decoder {decoder.kind!r} is not known to this version of infer: update cellengine.")


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


def _floats(scores: Scores, name: str) -> Array:
    """One score map as float32 in 0..1."""
    values: Array = np.multiply(scores[name][0], np.float32(1 / SCORE_STEPS), dtype=np.float32)
    return values
