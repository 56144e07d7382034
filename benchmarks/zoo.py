"""How good are the bundled models besides `nuclei`? Each on the validation split of its task, by the production engine.

    python benchmarks/zoo.py [wbc livedead counting nuclei3d cells3d] [--folder src/cellengine/zoo]

Prints what the model cards say. `counting` is `infer -m cells-brightfield --then livedead` on the validation frames.
Figures of tasks that are not asked for stay in the JSON as they were.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from skimage.io import imsave

from _pictures import DATA
from _timing import RESULTS, write_result
from cellengine.engine.backends import open_session
from cellengine.engine.crops import classify_files
from cellengine.engine.flow import Stop
from cellengine.engine.infer import infer_array, infer_source
from cellengine.engine.options import InferOptions
from cellengine.engine.run import Progress
from cellengine.engine.session import Session
from cellengine.io import open_source
from cellengine.io.annotated import Item, list_annotated, read_annotated
from cellengine.metrics import (
    evaluate_classes,
    evaluate_instances,
    evaluate_partition,
    evaluate_semantic,
    mean_over_pictures,
    pool,
)

Row = dict[str, Any]
GREYS = np.array([0, 128, 255])
"""grey values of the masks of white blood cells"""


def validation(path: Path, **choices: Any) -> list[Item]:
    return [item for item in list_annotated(path, **choices) if item.split == "val"]


def wbc(session: Session) -> Row:
    """Classes of pixels of white blood cells: pooled over all pixels, and the mean over pictures."""
    row: Row = {}
    for name in ("dataset1", "dataset2"):
        scores = []
        for item in validation(DATA / "wbc" / f"{name}.csv"):
            picture = read_annotated(item)
            # stray greys of dataset 2 count as the class nearest to them
            truth = np.abs(picture.labels[..., None].astype(int) - GREYS).argmin(-1)
            scores.append(evaluate_semantic(truth, infer_array(picture.image, session).labels, len(GREYS)))
        row[name] = {"pictures": len(scores), **pool(scores).row()}
        row[name]["mean_dice_over_pictures"] = mean_over_pictures(scores)["mean_dice"]
    return row


def livedead(session: Session) -> Row:
    """Crops of living and dead cells, as files of one crop each."""
    with np.load(DATA / "cells" / "livedead" / "crops.npz") as file:
        chosen = file["split"] == "val"
        images, dead = file["image"][chosen], file["dead"][chosen]
    with tempfile.TemporaryDirectory() as place:
        files = {f"{i:05}": Path(place, f"{i:05}.png") for i in range(len(images))}
        for file, image in zip(files.values(), images, strict=True):
            imsave(file, image, check_contrast=False)
        table, failed = classify_files(files, session, InferOptions(), Stop(), Progress())
    assert not failed
    chances = np.stack([table[name] for name in session.spec.classes], axis=1)
    return {"crops": len(dead), **evaluate_classes(dead, chances.argmax(1), 2, chances).row()}


def boxes_of(objects: dict[str, np.ndarray]) -> np.ndarray:
    """(n, 4) boxes y0, x0, y1, x1 of a table of objects."""
    return np.stack([objects[name] for name in ("bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1")], axis=1)


def match_boxes(true: np.ndarray, found: np.ndarray, least_iou: float = 0.5) -> list[tuple[int, int]]:
    """Pairs of boxes with an IoU of `least_iou` or more, as many as possible."""
    if not len(true) or not len(found):
        return []
    low = np.maximum(true[:, None, :2], found[None, :, :2])
    high = np.minimum(true[:, None, 2:], found[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    sizes = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (true, found)]
    iou = common / (sizes[0][:, None] + sizes[1][None, :] - common)
    worth = np.where(iou >= least_iou, 1.0 + 1e-3 * iou, 0.0)
    return [(t, f) for t, f in zip(*linear_sum_assignment(worth, maximize=True), strict=True) if worth[t, f] > 0]


def counting(cells: Session, classifier: Session) -> Row:
    """Cells of whole frames found by their boxes, and the class of those found."""
    folder = DATA / "cells" / "livedead"
    with (folder / "cells.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
    frames: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        frames[row["frame"]].append(row)
    matched, found, right, classes = 0, 0, 0, Counter()
    for frame, cells_of_frame in frames.items():
        true = np.array([[int(row[k]) for k in ("ymin", "xmin", "ymax", "xmax")] for row in cells_of_frame])
        objects = infer_source(open_source(folder / frame), cells, InferOptions(), then=classifier).objects
        pairs = match_boxes(true, boxes_of(objects))
        matched, found = matched + len(pairs), found + len(objects["label"])
        for t, f in pairs:
            agrees = cells_of_frame[t]["label"] == objects["class"][f]
            right += agrees
            classes[cells_of_frame[t]["label"], bool(agrees)] += 1
    return {
        "frames": len(frames),
        "cells": len(rows),
        "found": found,
        "matched": matched,
        "f1_at_box_iou_0.5": 2 * matched / (len(rows) + found),
        "precision": matched / found,
        "recall": matched / len(rows),
        "class_accuracy_of_matched": right / matched,
        **{f"recall_{c}": classes[c, True] / (classes[c, True] + classes[c, False]) for c in ("live", "dead")},
    }


def volumes(
    session: Session, subset: str, group: Callable[[Item, int], str], splits: tuple[str, ...] = ("val",)
) -> Row:
    """Objects of whole volumes: the scores of each, and means by group."""
    items = [
        item
        for item in list_annotated(DATA / "volumes" / "index.csv", where={"subset": subset}, axes="ZYX")
        if item.split in splits
    ]
    each: Row = {}
    groups: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        picture = read_annotated(item)
        # the others are taken as they are: glands are as the model has seen them, ovules have nuclei of as many voxels
        resample = session.spec.voxel_size_um is not None and subset != "ovule_nuclei"
        options = InferOptions(axes=item.axes, resample=resample)
        with open_source(item.image, dataset=item.image_dataset, axes=item.axes) as source:
            labels = infer_source(source, session, options).labels
        scores = evaluate_instances(picture.labels, labels)
        partition = evaluate_partition(picture.labels, labels)
        both = np.count_nonzero((picture.labels > 0) & (labels > 0))
        either = np.count_nonzero((picture.labels > 0) | (labels > 0))
        each[item.image.name] = {**scores.row(), "cell_iou": both / either, "voi": partition.voi}
        for name in {"all", group(item, scores.n_true)}:
            groups[name].append(scores)
    means = {name: {"volumes": len(s), **mean_over_pictures(s)} for name, s in sorted(groups.items())}
    return {"volumes": each, "means": means}


def by_split(item: Item, nuclei: int) -> str:
    """Of three ovules each is a kind of its own: one is clear, two are almost pure noise plane by plane."""
    return f"{item.split}, {item.image.stem}"


def by_number(item: Item, nuclei: int) -> str:
    """Embryo 10 is arrested and fragmented, and counts apart."""
    if item.image.name.startswith("Emb10"):
        return "Emb10"
    return next(f"{low} to {high} nuclei" for low, high in ((1, 8), (9, 24), (25, 99)) if low <= nuclei <= high)


def main() -> None:
    tasks: dict[str, tuple[list[str], Callable[..., Row]]] = {
        "wbc": (["wbc"], wbc),
        "livedead": (["livedead"], livedead),
        "counting": (["cells-brightfield", "livedead"], counting),
        "nuclei3d": (["nuclei3d"], lambda session: volumes(session, "embryo", by_number)),
        "ovules": (["nuclei3d"], lambda session: volumes(session, "ovule_nuclei", by_split, ("train", "val"))),
        "cells3d": (["cells3d"], lambda session: volumes(session, "gland", lambda item, cells: "all")),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(tasks)}; all whose models are there when left out")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "src" / "cellengine" / "zoo")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="bf16")
    arguments = parser.parse_args()
    known = RESULTS / "zoo.json"
    figures = json.loads(known.read_text())["tasks"] if known.exists() else {}
    for task in arguments.tasks or tasks:
        names, measure = tasks[task]
        if not arguments.tasks and not all((arguments.folder / f"{name}.onnx").exists() for name in names):
            continue
        with ExitStack() as stack:
            files = [arguments.folder / f"{name}.onnx" for name in names]
            kind = {"device": "cpu", "backend": arguments.backend, "precision": arguments.precision}
            figures[task] = measure(*(stack.enter_context(open_session(file, **kind)) for file in files))
    question = "The bundled models on the validation split of their task"
    write_result("zoo", question, {"backend": arguments.backend, "precision": arguments.precision, "tasks": figures})


if __name__ == "__main__":
    main()
