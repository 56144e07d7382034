"""Average precision of a ranking against the definition written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellengine.metrics import evaluate_instances, rank_predictions, ranking_ap
from cellengine.ops.overlap import overlap_table


def voc_by_hand(found: list[bool], n_true: int) -> float:
    """Sum over true objects, in order of discovery, of the best precision at this or any later recall."""
    precisions = [sum(found[: n + 1]) / (n + 1) for n in range(len(found))]
    return sum(max(precisions[n:]) for n, right in enumerate(found) if right) / n_true


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=12), st.integers(0, 3))
def test_ranking_ap(predictions: list[tuple[float, bool]], missed: int) -> None:
    scores, found = [score for score, _ in predictions], [right for _, right in predictions]
    n_true = sum(found) + missed
    if n_true == 0:
        assert ranking_ap(scores, found, 0) == (0.0 if found else 1.0)
        return
    ranked = [right for _, right in sorted(predictions, key=lambda prediction: -prediction[0])]
    assert ranking_ap(scores, found, n_true) == pytest.approx(voc_by_hand(ranked, n_true))


def test_ranking_of_a_picture() -> None:
    truth = np.array([1, 1, 1, 0, 2, 2, 0, 0])
    predicted = np.array([4, 4, 4, 0, 0, 0, 6, 6])
    ranking = rank_predictions(overlap_table(truth, predicted), {4: 0.3, 6: 0.9}, [0.5])
    assert ranking.scores.tolist() == [0.3, 0.9]
    assert ranking.found[:, 0].tolist() == [True, False]
    assert ranking_ap(ranking.scores, ranking.found[:, 0], 2) == 0.25
    with pytest.raises(KeyError):
        rank_predictions(overlap_table(truth, predicted), {4: 0.3}, [0.5])


def test_scores_of_predictions_add_the_ranking_to_the_row() -> None:
    truth = np.array([1, 1, 1, 0, 2, 2, 0, 0])
    predicted = np.array([4, 4, 4, 0, 0, 0, 6, 6])
    sure = evaluate_instances(truth, predicted, [0.5, 0.9], {4: 0.9, 6: 0.3})
    unsure = evaluate_instances(truth, predicted, [0.5, 0.9], {4: 0.3, 6: 0.9})
    assert (sure.row()["voc_ap0.5"], sure.row()["voc_mean_ap"]) == (0.5, 0.5)
    assert unsure.row()["voc_ap0.5"] == 0.25
    # ranked together: right .9, wrong .9, wrong .3, right .3 of four true objects, in order of picture among equals
    assert (sure + unsure).row()["voc_ap0.5"] == pytest.approx((1 + 2 / 4) / 4)
    assert "voc_ap0.5" not in evaluate_instances(truth, predicted).row()
    assert "voc_ap0.5" not in (sure + evaluate_instances(truth, predicted, [0.5, 0.9])).row()
