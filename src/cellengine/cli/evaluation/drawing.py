"""Small pictures of what was found and what was missed: truth green, prediction red, agreement yellow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cellengine.metrics import boundaries_of

Labels = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]

SIDE_PX = 512
"""longest side of a drawing; larger pictures are thinned out, smaller ones enlarged by a whole factor"""

GREEN, RED, YELLOW = (40, 220, 90), (255, 60, 60), (255, 220, 60)


def draw_outlines(truth: Labels, predicted: Labels, image: Labels | None) -> tuple[Pixels, tuple[int, ...]]:
    """Outlines of both on the picture, or on black.

    Args:
        truth: label image or class map; of a stack the plane with most objects of either is drawn
        predicted: the same of the prediction, same shape
        image: the picture, shaped as `truth`, with a last axis of three for colour; None when it is not known

    Returns the drawing as (height, width, 3), at most SIDE_PX a side, and the index of the plane, empty in 2D.
    """
    plane = _fullest_plane(truth, predicted)
    step, factor = _scaling(truth.shape[-2:])
    true, given = (_resized(labels[plane], step, factor) for labels in (truth, predicted))
    canvas = np.zeros((*true.shape, 3), np.uint8)
    if image is not None:
        canvas[:] = _grey_or_colour(_resized(image[plane], step, factor))
    true_lines, given_lines = (boundaries_of(labels) & (labels != 0) for labels in (true, given))
    canvas[true_lines] = GREEN
    canvas[given_lines] = RED
    canvas[true_lines & given_lines] = YELLOW
    return canvas, plane


def _fullest_plane(truth: Labels, predicted: Labels) -> tuple[int, ...]:
    if truth.ndim == 2:
        return ()
    covered = (truth != 0).sum(axis=(-2, -1)) + (predicted != 0).sum(axis=(-2, -1))
    return tuple(int(index) for index in np.unravel_index(int(covered.argmax()), covered.shape))


def _scaling(shape: tuple[int, ...]) -> tuple[int, int]:
    """Every how many pixels are kept, and how often each is repeated; one of the two is 1."""
    longest = max(shape)
    return -(-longest // SIDE_PX), max(1, SIDE_PX // longest)


def _resized(plane: Labels, step: int, factor: int) -> Labels:
    return plane[::step, ::step].repeat(factor, axis=0).repeat(factor, axis=1)


def _grey_or_colour(plane: Labels) -> Pixels:
    """Eight bits a channel; grey levels from the 1st to the 99.8th percentile, slightly dimmed for the outlines."""
    if plane.ndim == 3:
        colour: Pixels = plane if plane.dtype == np.uint8 else (plane / max(1, plane.max()) * 255).astype(np.uint8)
        return colour
    low, high = np.percentile(plane, (1, 99.8))
    grey = np.clip((plane - low) / max(float(high - low), 1e-9), 0, 1) * 220
    dimmed: Pixels = grey.astype(np.uint8)[..., None]
    return dimmed
