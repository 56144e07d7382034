"""Are h-maxima found faster than by scikit-image, and the same ones?

python benchmarks/ops_seeds.py [--side 4096] [--runs 3]
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from skimage.morphology import h_maxima as peer

from _reliefs import relief
from _timing import paired, ratio, write_result
from cellengine.ops import h_maxima


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    smooth = relief((options.side,) * 2)
    rows = []
    for image, h in ((np.round(smooth * 255).astype(np.uint8), 5), (np.round(smooth * 65535).astype(np.uint16), 1300)):
        times = paired(
            {
                "ours_1_thread": partial(h_maxima, image, h, workers=1),
                "ours_2_threads": partial(h_maxima, image, h, workers=2),
                "scikit_image": partial(peer, image, h),
            },
            options.runs,
        )
        rows.append(
            {
                "shape": image.shape,
                "dtype": image.dtype.name,
                "h": h,
                "identical": np.array_equal(h_maxima(image, h), peer(image, h)),
                "times_faster_1_thread": ratio(times, "scikit_image", "ours_1_thread"),
                "times_faster_2_threads": ratio(times, "scikit_image", "ours_2_threads"),
                **times,
            }
        )
    write_result("ops_seeds", "Are h-maxima found faster than by scikit-image, and the same ones?", {"rows": rows})


if __name__ == "__main__":
    main()
