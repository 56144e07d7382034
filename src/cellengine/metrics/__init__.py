"""How good an answer is: scores of instances, classes of pixels, volumes and boundaries, and classifiers.

Plain functions on arrays, truth first. No files, no models, no printing.
"""

from cellengine.metrics.instances import (
    THRESHOLDS,
    InstanceScores,
    Match,
    Pairs,
    evaluate_instances,
    match_objects,
    mean_over_pictures,
    pool,
    rank_predictions,
    ranking_ap,
    score_overlap,
)

__all__ = [
    "THRESHOLDS",
    "InstanceScores",
    "Match",
    "Pairs",
    "evaluate_instances",
    "match_objects",
    "mean_over_pictures",
    "pool",
    "rank_predictions",
    "ranking_ap",
    "score_overlap",
]
