"""How good an answer is: scores of instances, classes of pixels, partitions, boundaries and classifiers.

Plain functions on arrays, truth first. No files, no models, no printing. Every kind of score has `row()`, its entries
by name, and can be added to another of its kind: the sum is the score of both pictures taken as one.
"""

from cellengine.metrics.aggregate import Scores, mean_over_pictures, pool
from cellengine.metrics.boundaries import BoundaryScores, boundaries_of, evaluate_boundaries
from cellengine.metrics.classes import ClassScores, calibration_error, evaluate_classes, roc_auc
from cellengine.metrics.instances import THRESHOLDS, InstanceScores, Match, evaluate_instances, score_overlap
from cellengine.metrics.matching import Pairs, match_objects
from cellengine.metrics.ranking import Ranking, rank_predictions, ranking_ap
from cellengine.metrics.semantic import SemanticScores, confusion_matrix, evaluate_semantic
from cellengine.metrics.volumes import PartitionScores, evaluate_partition

__all__ = [
    "THRESHOLDS",
    "BoundaryScores",
    "ClassScores",
    "InstanceScores",
    "Match",
    "Pairs",
    "PartitionScores",
    "Ranking",
    "Scores",
    "SemanticScores",
    "boundaries_of",
    "calibration_error",
    "confusion_matrix",
    "evaluate_boundaries",
    "evaluate_classes",
    "evaluate_instances",
    "evaluate_partition",
    "evaluate_semantic",
    "match_objects",
    "mean_over_pictures",
    "pool",
    "rank_predictions",
    "ranking_ap",
    "roc_auc",
    "score_overlap",
]
