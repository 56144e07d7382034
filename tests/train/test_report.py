"""Preview pictures: titles count, and scores stand beside the objects that have one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from cellengine.train.report import MOST_SCORES, Panel, draw_classes, draw_labels, save_figure


def texts(axis: Any) -> dict[str, tuple[float, float]]:
    return {text.get_text(): text.get_position() for text in axis.texts}


def panel(count: int, scores: np.ndarray | None, name: str = "a.png") -> Panel:
    """`count` squares of 3 px in rows of ten, found just as they are."""
    labels = np.zeros((5 * -(-count // 10) + 1, 51), np.uint32)
    for number in range(count):
        y, x = 5 * (number // 10) + 1, 5 * (number % 10) + 1
        labels[y : y + 3, x : x + 3] = number + 1
    return Panel(name, np.random.default_rng(0).integers(0, 255, (1, *labels.shape)), labels, labels, scores)


def test_every_object_has_its_score_beside_it(tmp_path: Path) -> None:
    figure = draw_labels([panel(3, None), panel(3, np.array([0.914, 0.75, 0.5]), "b.png")])
    axes = figure.axes
    assert [len(axis.texts) for axis in axes] == [0, 0, 0, 0, 0, 3]
    assert texts(axes[5]) == {"0.91": (4, 1), "0.75": (9, 1), "0.50": (14, 1)}
    save_figure(figure, tmp_path / "preview.png")
    assert (tmp_path / "preview.png").stat().st_size > 0


def test_a_crowd_is_left_legible() -> None:
    fits, crowd = (draw_labels([panel(n, np.linspace(0, 1, n))]) for n in (MOST_SCORES, MOST_SCORES + 1))
    assert len(fits.axes[2].texts) == MOST_SCORES
    assert not crowd.axes[2].texts
    assert crowd.axes[2].get_title() == f"prediction: {MOST_SCORES + 1}"


def test_planes_of_a_volume_show_the_scores_of_what_they_cut() -> None:
    labels = np.zeros((8, 12, 12), np.uint32)
    labels[:4, 2:5, 2:5], labels[4:, 7:10, 7:10] = 1, 2
    image = np.zeros((1, *labels.shape), np.uint8)
    figure = draw_labels([Panel("v.tif", image, labels, labels, np.array([0.25, 0.75]))])
    for axis, title in zip(figure.axes[2::3], figure.axes[::3], strict=True):
        z = int(title.get_title().split()[-1])
        assert list(texts(axis)) == ["0.25" if z < 4 else "0.75"]


def test_nothing_found_and_maps_of_classes_have_no_scores() -> None:
    empty = panel(1, None)
    nothing = Panel("a.png", empty.image, empty.truth, np.zeros_like(empty.truth), np.zeros(0))
    assert not draw_labels([nothing]).axes[2].texts
    assert not any(axis.texts for axis in draw_classes([empty], 2).axes)
