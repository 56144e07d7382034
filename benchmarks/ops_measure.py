"""Are objects measured faster than by regionprops_table, with the same numbers?

    python benchmarks/ops_measure.py [--side 4096] [--depth 256] [--runs 3]

Area, centroid, bounding box, mean, minimum, maximum and standard deviation of one uint16 channel: 10,000 objects in
side^2 (one per 41 x 41 px), 3,000 in depth^3.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from skimage.measure import regionprops_table

from _reliefs import nuclei, spread_seeds
from _timing import paired, ratio, write_result
from cellengine.ops import distance_watershed, grow, measure_objects, relabel

INTENSITIES = ("intensity_mean", "intensity_min", "intensity_max", "intensity_std")
PROPERTIES = ("label", "area", "centroid", "bbox", *INTENSITIES)


def largest_difference(labels: np.ndarray, intensity: np.ndarray) -> float:
    """Relative to the peer's value, over all properties."""
    ours, peer = measure_objects(labels, intensity), regionprops_table(labels, intensity, properties=PROPERTIES)
    pairs = [(ours.area, peer["area"])]
    pairs += [(ours.centroid[:, axis], peer[f"centroid-{axis}"]) for axis in range(labels.ndim)]
    pairs += [(ours.bbox[:, side], peer[f"bbox-{side}"]) for side in range(2 * labels.ndim)]
    pairs += [(getattr(ours, name)[:, 0], peer[name]) for name in INTENSITIES]
    return max(float((np.abs(a - b) / np.maximum(np.abs(b), 1e-12)).max()) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--depth", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    flat = distance_watershed(*nuclei(options.side))
    volume = relabel(grow(spread_seeds((options.depth,) * 3, options.depth**3 // 3000).astype(np.uint32), 9))
    rows = []
    for labels in (flat, volume):
        intensity = np.random.default_rng(0).integers(0, 4096, labels.shape, dtype=np.uint16)
        times = paired(
            {
                "ours_1_thread": partial(measure_objects, labels, intensity, workers=1),
                "ours_2_threads": partial(measure_objects, labels, intensity, workers=2),
                "scikit_image": partial(regionprops_table, labels, intensity, properties=PROPERTIES),
            },
            options.runs,
        )
        rows.append(
            {
                "shape": labels.shape,
                "objects": int(labels.max()),
                "largest_relative_difference": largest_difference(labels, intensity),
                "times_faster_1_thread": ratio(times, "scikit_image", "ours_1_thread"),
                "times_faster_2_threads": ratio(times, "scikit_image", "ours_2_threads"),
                **times,
            }
        )
    write_result(
        "ops_measure", "Are objects measured faster than by regionprops_table, with the same numbers?", {"rows": rows}
    )


if __name__ == "__main__":
    main()
