"""Pictures of what was found never change what was read, and show classes by colour."""

from __future__ import annotations

import numpy as np

from cellengine.engine.overlay import CLASS_COLOURS, classes_by_label, draw_plane


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


def test_objects_of_a_class_share_a_colour() -> None:
    labels = np.zeros((6, 15), np.uint32)
    for i, label in enumerate((7, 2, 9)):
        labels[1:5, 1 + 5 * i : 5 + 5 * i] = label
    class_of = classes_by_label(np.array([2, 7, 9]), np.array(["dead", "live", "live"]), ("live", "dead"))
    drawn = draw_plane(np.zeros((1, 6, 15), np.uint8), labels, is_rgb=False, class_of=class_of)
    corners = drawn[1, [1, 6, 11]]
    assert np.array_equal(corners, CLASS_COLOURS[[0, 1, 0]])
