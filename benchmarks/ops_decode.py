"""How fast is the whole distance-watershed decode beside scipy and scikit-image, as their documentation writes it?

    python benchmarks/ops_decode.py [--side 4096] [--runs 3]

Foreground and distance of side^2 with one nucleus per 41 x 41 px (10,000 at 4096): threshold, fill holes, smooth,
h-maxima, watershed, drop small objects, number. The peer takes half a minute and is timed once.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import h_maxima, remove_small_objects
from skimage.segmentation import relabel_sequential, watershed

from _reliefs import nuclei
from _timing import paired, ratio, timed_once, write_result
from cellengine.ops import distance_watershed


def as_documented(foreground: np.ndarray, distance: np.ndarray) -> np.ndarray:
    mask = ndimage.binary_fill_holes(foreground > 0.5)
    smooth = ndimage.gaussian_filter(distance, 1.0)
    markers = label(h_maxima(smooth, 0.05))
    labels = watershed(-smooth, markers, mask=mask)
    return relabel_sequential(remove_small_objects(labels, max_size=19))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    foreground, distance = nuclei(options.side)
    ours = partial(
        distance_watershed, foreground, distance, smoothing_px=1.0, h=0.05, min_size_px=20, max_hole_px=10**9
    )
    times = paired(
        {
            "ours_1_thread": partial(ours, workers=1),
            "ours_2_threads": partial(ours, workers=2),
        },
        options.runs,
    )
    as_documented(foreground[:256, :256], distance[:256, :256])  # what is loaded late is not to count
    times["scipy_scikit_image"], expected = timed_once(partial(as_documented, foreground, distance))
    figures = {
        "shape": foreground.shape,
        "objects_ours": int(ours().max()),
        "objects_peer": int(expected.max()),
        "times_faster_1_thread": ratio(times, "scipy_scikit_image", "ours_1_thread"),
        "times_faster_2_threads": ratio(times, "scipy_scikit_image", "ours_2_threads"),
        **times,
    }
    write_result("ops_decode", "How fast is the distance-watershed decode beside scipy and scikit-image?", figures)


if __name__ == "__main__":
    main()
