"""How fast is the boundary road (PlantSeg's) beside scipy and scikit-image?

    python benchmarks/ops_boundary.py [--depth 256] [--runs 3]

Boundary scores of depth^3 of confluent tissue: threshold, distance transform, smoothing, seeds, watershed, region
graph, merging by mean boundary. The peer takes minutes and is timed once.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.graph import merge_hierarchical, rag_boundary
from skimage.segmentation import watershed

from _reliefs import tissue
from _timing import paired, ratio, timed_once, write_result
from cellengine.ops import boundary_watershed

DISTANCE_PX, MERGE_BELOW = 5, 0.2


def _weight(graph: object, source: int, target: int, node: int) -> dict[str, float]:
    """Mean boundary of two joined contacts, as the scikit-image gallery writes it."""
    none = {"weight": 0.0, "count": 0}
    a, b = graph[source].get(node, none), graph[target].get(node, none)  # type: ignore[index]
    count = a["count"] + b["count"]
    return {"count": count, "weight": (a["count"] * a["weight"] + b["count"] * b["weight"]) / count}


def as_documented(boundary: np.ndarray) -> np.ndarray:
    distance = ndimage.distance_transform_edt(boundary <= 0.4)
    smooth = ndimage.gaussian_filter(distance, 2.0)
    markers = np.zeros(boundary.shape, np.int32)
    peaks = peak_local_max(smooth, min_distance=DISTANCE_PX, exclude_border=False)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(boundary, markers)
    graph = rag_boundary(labels, boundary.astype(np.float64))
    return merge_hierarchical(labels, graph, MERGE_BELOW, False, True, lambda *_: None, _weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    boundary = tissue(options.depth)
    ours = partial(boundary_watershed, boundary, min_distance_px=DISTANCE_PX, merge_below=MERGE_BELOW)
    times = paired(
        {
            "ours_1_thread": partial(ours, workers=1),
            "ours_2_threads": partial(ours, workers=2),
        },
        options.runs,
    )
    as_documented(boundary[:40, :40, :40])  # what is loaded late is not to count
    times["scipy_scikit_image"], expected = timed_once(partial(as_documented, boundary))
    figures = {
        "shape": boundary.shape,
        "regions_ours": int(ours().max()),
        "regions_peer": len(np.unique(expected)),
        "times_faster_1_thread": ratio(times, "scipy_scikit_image", "ours_1_thread"),
        "times_faster_2_threads": ratio(times, "scipy_scikit_image", "ours_2_threads"),
        **times,
    }
    write_result("ops_boundary", "How fast is the boundary road beside scipy and scikit-image?", figures)


if __name__ == "__main__":
    main()
