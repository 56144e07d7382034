"""Is the watershed faster than scikit-image's, with the same labels?

    python benchmarks/ops_watershed.py [--shapes 4096,4096 256,256,256] [--dtypes uint8 uint16 float32] [--runs 3]

2D and 3D, uint8, uint16 and float32 relief, with and without mask. Labels are compared for
single-voxel seeds of distinct levels, which also warms both up; times are for one seed in 1,600 voxels. The peer, which
takes seconds to a minute, is timed once.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from skimage.segmentation import watershed as peer

from _reliefs import relief, seeds_of_distinct_levels, spread_seeds
from _timing import paired, ratio, timed_once, write_result
from cellengine.ops import watershed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["4096,4096", "256,256,256"])
    parser.add_argument("--dtypes", nargs="+", default=["uint8", "uint16", "float32"])
    parser.add_argument("--name", default="ops_watershed", help="of the result")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for shape in [tuple(int(n) for n in text.split(",")) for text in options.shapes]:
        smooth = relief(shape, 4.0 if len(shape) == 2 else 3.0)
        markers = spread_seeds(shape, 1600)
        for dtype in map(np.dtype, options.dtypes):
            image = smooth if dtype == np.float32 else np.round(smooth * np.iinfo(dtype).max).astype(dtype)
            distinct = seeds_of_distinct_levels(image, 200)
            for mask in (None, smooth > np.median(smooth)):
                equal = np.array_equal(watershed(image, distinct, mask), peer(image, distinct, mask=mask))
                times = paired(
                    {
                        "ours_1_thread": partial(watershed, image, markers, mask),
                        "ours_2_threads": partial(watershed, image, markers, mask, workers=2),
                    },
                    options.runs,
                )
                times["scikit_image"], _ = timed_once(partial(peer, image, markers, mask=mask))
                rows.append(
                    {
                        "shape": shape,
                        "dtype": dtype.name,
                        "mask": mask is not None,
                        "labels_equal_for_distinct_seeds": equal,
                        "times_faster_1_thread": ratio(times, "scikit_image", "ours_1_thread"),
                        "times_faster_2_threads": ratio(times, "scikit_image", "ours_2_threads"),
                        **times,
                    }
                )
    # labels and queue; a mask's queue is only as long as the components in work
    figures = {"bytes_per_voxel": {"labels": 4, "queue": 4}, "rows": rows}
    write_result(options.name, "Is the watershed faster than scikit-image's, with the same labels?", figures)


if __name__ == "__main__":
    main()
