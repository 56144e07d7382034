"""Does time per voxel stay level from 64^3 to 512^3?

    python benchmarks/ops_scaling.py [--sides 64,128,256,512] [--runs 3]

Watershed of uint8 relief and measurement of its labels, one thread.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np

from _reliefs import relief, spread_seeds
from _timing import paired, write_result
from cellengine.ops import measure_objects, watershed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", default="64,128,256,512")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for side in (int(s) for s in options.sides.split(",")):
        image = np.round(relief((side,) * 3, 3.0) * 255).astype(np.uint8)
        markers = spread_seeds(image.shape, 1600)
        labels = watershed(image, markers)
        times = paired(
            {
                "watershed": partial(watershed, image, markers),
                "measure": partial(measure_objects, labels, image, workers=1),
            },
            options.runs,
        )
        each = {f"{name}_ns_per_voxel": taken["median_s"] / image.size * 1e9 for name, taken in times.items()}
        rows.append({"side": side, **each, **times})
    growth = {
        name: rows[-1][f"{name}_ns_per_voxel"] / rows[0][f"{name}_ns_per_voxel"] for name in ("watershed", "measure")
    }
    write_result("ops_scaling", "Does time per voxel stay level from 64^3 to 512^3?", {"growth": growth, "rows": rows})


if __name__ == "__main__":
    main()
