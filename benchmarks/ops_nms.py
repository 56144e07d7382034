"""Is suppression of many boxes faster than the plain rule in numpy (and than torchvision's, where installed)?

    python benchmarks/ops_nms.py [--boxes 100000] [--runs 3]

The plain rule takes minutes and is timed once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np

from _timing import paired, ratio, timed_once, write_result
from cellengine.ops import nms


def plain(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy suppression as every tutorial writes it: the best box against all that are left."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-scores, kind="stable")
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        both = np.maximum(high - low, 0).prod(axis=1)
        order = rest[both / (area[best] + area[rest] - both) <= np.float32(threshold)]
    return np.array(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    # about four proposals an object, as a detector gives them
    objects = rng.random((options.boxes // 4 + 1, 2)) * 40 * options.boxes**0.5 / 2
    corner = (objects[np.arange(options.boxes) // 4] + rng.normal(0, 2, (options.boxes, 2))).astype(np.float32)
    boxes = np.concatenate([corner, corner + rng.uniform(15, 30, (options.boxes, 2)).astype(np.float32)], axis=1)
    scores = rng.random(options.boxes).astype(np.float32)
    kept = nms(boxes, scores, 0.5)
    runs: dict[str, Callable[[], object]] = {"ours": partial(nms, boxes, scores, 0.5)}
    plain_times, expected = timed_once(partial(plain, boxes, scores, 0.5))
    same = {"numpy": np.array_equal(kept, expected)}
    try:
        import torch
        from torchvision.ops import nms as torchvision_nms
    except ImportError:
        pass
    else:
        tensors = torch.from_numpy(boxes[:, [1, 0, 3, 2]]), torch.from_numpy(scores)
        runs["torchvision"] = partial(torchvision_nms, *tensors, 0.5)
        same["torchvision"] = np.array_equal(kept, torchvision_nms(*tensors, 0.5).numpy())
    times = {**paired(runs, options.runs), "numpy": plain_times}
    figures = {
        "boxes": options.boxes,
        "kept": len(kept),
        "same_boxes_kept": same,
        "times_faster": {name: ratio(times, name, "ours") for name in same},
        **times,
    }
    write_result("ops_nms", "Is suppression of many boxes faster than the plain rule in numpy?", figures)


if __name__ == "__main__":
    main()
