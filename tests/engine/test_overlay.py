"""Pictures of what was found never change what was read."""

from __future__ import annotations

import numpy as np

from cellengine.engine.overlay import draw_plane


def test_outlines_are_drawn_into_a_picture_of_their_own() -> None:
    stored = np.full((12, 10, 3), 90, np.uint8)
    stored.flags.writeable = False  # as decoders hand it out, channels last
    labels = np.zeros((12, 10), np.uint32)
    labels[3:8, 2:7] = 1
    drawn = draw_plane(np.moveaxis(stored, -1, 0), labels, is_rgb=True)
    assert (stored == 90).all()
    changed = (drawn != 90).any(-1)
    border = labels > 0
    border[4:7, 3:6] = False
    assert np.array_equal(changed, border)
