"""U-Net with watershed, or Mask R-CNN? Both on the validation split, by kind of picture and by size of nucleus.

    python benchmarks/mask_rcnn_quality.py [--models nuclei nuclei-maskrcnn] [--precision bf16]

Models are bundled names or files. Report A left the question open.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np

from _pictures import DATA
from _timing import seconds, write_result
from cellengine.engine.backends import open_session
from cellengine.engine.infer import infer_array
from cellengine.engine.model_file import resolve_model
from cellengine.io.annotated import Picture, list_annotated, read_annotated
from cellengine.metrics import (
    InstanceScores,
    evaluate_instances,
    match_objects,
    mean_over_pictures,
    rank_predictions,
    ranking_ap,
)
from cellengine.ops.overlap import overlap_table

Array = np.ndarray[Any, Any]

SIZES_PX = (0, 60, 150, 400, 1000, 10**9)
"""limits of the areas of nuclei that are counted together"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["nuclei", "nuclei-maskrcnn"])
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--pictures", type=int, default=0, help="only so many, evenly spread; 0 for all")
    arguments = parser.parse_args()
    items = [i for i in list_annotated(DATA / "dsb2018" / "split.csv", kind_column="kind") if i.split == "val"]
    if arguments.pictures:
        items = items[:: max(1, len(items) // arguments.pictures)]
    pictures = [read_annotated(item) for item in items]
    rows = {name: answered(name, pictures, arguments.backend, arguments.precision) for name in arguments.models}
    write_result(
        "mask_rcnn_quality",
        "U-Net with watershed and Mask R-CNN on the same validation pictures; AP = TP / (TP + FP + FN)",
        {"backend": arguments.backend, "precision": arguments.precision, "models": rows},
    )
    for part in ("by_kind", "recall_by_size"):
        first = next(iter(rows.values()))[part]
        print(f"\n| {part} | {' | '.join(rows)} |\n|{'---|' * (len(rows) + 1)}")
        for name in first:
            cells = [f"{r[part][name]['ap50']:.3f} / {r[part][name]['mean_ap']:.3f}" if part == "by_kind"
                     else f"{r[part][name]:.3f}" for r in rows.values()]  # fmt: skip
            print(f"| {name} | {' | '.join(cells)} |")


def answered(model: str, pictures: list[Picture], backend: str, precision: str) -> dict[str, Any]:
    """AP by kind, VOC AP where objects have scores, recall at IoU 0.5 by size, and seconds in all."""
    by_kind: dict[str, list[InstanceScores]] = defaultdict(list)
    found_of, total_of = np.zeros(len(SIZES_PX) - 1), np.zeros(len(SIZES_PX) - 1)
    ranking, n_true, taken = None, 0, 0.0
    with open_session(resolve_model(model), device="cpu", backend=backend, precision=precision) as session:
        for picture in pictures:
            kept: list[Any] = []
            taken += seconds(lambda image=picture.image, kept=kept: kept.append(infer_array(image, session)))
            result = kept[0]
            score = evaluate_instances(picture.labels, result.labels)
            by_kind[picture.item.kind].append(score)
            by_kind["all"].append(score)
            table = overlap_table(picture.labels, result.labels)
            group = np.searchsorted(SIZES_PX, table.sizes_a, side="right") - 1
            total_of += np.bincount(group, minlength=len(total_of))
            found_of += np.bincount(group[match_objects(table, 0.5).true], minlength=len(total_of))
            n_true += len(table.labels_a)
            if "score" in result.objects:
                pairs = zip(result.objects["label"].tolist(), result.objects["score"].tolist(), strict=True)
                ranks = rank_predictions(table, dict(pairs), (0.5,))
                ranking = ranks if ranking is None else ranking + ranks
    means = {kind: mean_over_pictures(scores) for kind, scores in sorted(by_kind.items())}
    limits = [f"{low} ... {high} px" for low, high in pairwise(SIZES_PX)]
    return {
        "by_kind": {kind: {"ap50": m["ap0.5"], "mean_ap": m["mean_ap"], "f1": m["f1"]} for kind, m in means.items()},
        "voc_ap50": None if ranking is None else ranking_ap(ranking.scores, ranking.found[:, 0], n_true),
        "recall_by_size": dict(zip(limits, (found_of / np.maximum(total_of, 1)).tolist(), strict=True)),
        "nuclei_by_size": dict(zip(limits, total_of.tolist(), strict=True)),
        "seconds": taken,
    }


if __name__ == "__main__":
    main()
