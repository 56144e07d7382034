"""The parity gate: a precision is accepted when it finds on real pictures what fp32 PyTorch does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellengine.engine.classify import classify, cut_crop
from cellengine.engine.detect import detect
from cellengine.engine.flow import Stop
from cellengine.engine.infer import infer_array
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import plan_picture
from cellengine.engine.predict import SCORE_STEPS, predict
from cellengine.engine.scale import measure_scene
from cellengine.engine.scene import scenes
from cellengine.engine.session import Session
from cellengine.io import MemorySource
from cellengine.metrics import InstanceScores, evaluate_instances, evaluate_semantic, mean_over_pictures, pool
from cellengine.ops.detected import Detected
from cellengine.spec import Parity

Array = np.ndarray[Any, Any]

SAME_OBJECT_IOU = 0.8
LEAST_F1, LARGEST_COUNT_DIFFERENCE, LARGEST_AP_FALL = 0.99, 0.005, 0.003
LEAST_DICE, LEAST_SAME_CLASS = 0.995, 0.995
BLANK = Parity(precision="", backend="", device="", passed=False, pictures=0, max_difference=0.0)
"""what is filled in as it is measured"""


@dataclass(frozen=True, slots=True)
class Annotated:
    """A picture to verify on."""

    name: str
    image: Array
    """(C, *spatial), channels in the model's order or just one"""
    truth: Array
    """labels drawn by people"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a session found in the pictures."""

    found: list[Array]
    """labels or class ids of each picture; of a classifier the probabilities of each crop"""
    quality: dict[str, float]
    """how it compares with the truth, by name; empty where the truth is in another form"""


def answer(session: Session, pictures: Sequence[Annotated]) -> Answer:
    """Run the production engine on every picture and score it against the truth."""
    task = session.spec.task
    if task == "classification":
        probabilities = classify(pictures, lambda p: _crop(p, session), session, InferOptions(), Stop())
        right = [int(p.argmax()) == int(picture.truth) for p, picture in zip(probabilities, pictures, strict=True)]
        return Answer(list(probabilities), {"accuracy": float(np.mean(right))})
    found = [infer_array(p.image, session).labels for p in pictures]
    if task == "semantic":
        return Answer(found, {})  # masks may hold other values than class ids
    scores = [evaluate_instances(p.truth, labels) for p, labels in zip(pictures, found, strict=True)]
    return Answer(found, {"mean AP": mean_over_pictures(scores)["mean_ap"]})


def verify(reference: Session, expected: Answer, candidate: Session, pictures: Sequence[Annotated]) -> Parity:
    """Compare `candidate` with `expected`, the answer of `reference` (fp32 PyTorch), on the same pictures."""
    found = answer(candidate, pictures)
    task = candidate.spec.task
    if task == "classification":
        parity = _same_classes(expected, found)
    elif task == "semantic":
        parity = _same_maps(expected, found, len(candidate.spec.classes))
    else:
        parity = _same_objects(expected, found)
    if task != "classification":
        some = pictures[: 8 if len(candidate.spec.axes) == 2 else 2]  # a volume has millions of outputs as it is
        parity = replace(parity, max_difference=round(_largest_difference(reference, candidate, some), 6))
    return replace(
        parity,
        precision=candidate.precision,
        backend=candidate.backend,
        device=candidate.device,
        pictures=len(pictures),
    )


def _same_objects(expected: Answer, found: Answer) -> Parity:
    same: list[InstanceScores] = [
        evaluate_instances(a, b, (SAME_OBJECT_IOU,)) for a, b in zip(expected.found, found.found, strict=True)
    ]
    together = pool(same)
    f1 = together.at(SAME_OBJECT_IOU).f1
    count = abs(together.n_predicted - together.n_true) / max(1, together.n_true)
    change = found.quality["mean AP"] - expected.quality["mean AP"]
    passed = f1 >= LEAST_F1 and count <= LARGEST_COUNT_DIFFERENCE and change >= -LARGEST_AP_FALL
    return replace(
        BLANK,
        passed=passed,
        f1_at_80=round(f1, 5),
        count_difference=round(count, 5),
        mean_ap_change=round(change, 5),
    )


def _same_maps(expected: Answer, found: Answer, classes: int) -> Parity:
    pairs = zip(expected.found, found.found, strict=True)
    dice = pool([evaluate_semantic(a, b, classes) for a, b in pairs]).mean_dice
    return replace(BLANK, passed=dice >= LEAST_DICE, dice=round(dice, 5))


def _same_classes(expected: Answer, found: Answer) -> Parity:
    a, b = np.stack(expected.found), np.stack(found.found)
    same = float((a.argmax(1) == b.argmax(1)).mean())
    return replace(
        BLANK,
        passed=same >= LEAST_SAME_CLASS,
        same_class=round(same, 5),
        max_difference=round(float(np.abs(a - b).max()), 6),
    )


def _crop(picture: Annotated, session: Session) -> Array:
    """The crop around the middle of a picture, as `infer` cuts and scales it."""
    scene = scenes(_source(picture, session), session.spec, _options(picture))[0].seen
    return cut_crop(scene, [n // 2 for n in scene.shape], session.spec, InferOptions())


def _source(picture: Annotated, session: Session) -> MemorySource:
    return MemorySource(picture.image, "C" + session.spec.axes, voxel_size_um=session.spec.voxel_size_um)


def _options(picture: Annotated) -> InferOptions:
    channels = range(len(picture.image))
    return InferOptions(channel=tuple(map(str, channels)) if len(channels) > 1 else ())


def _largest_difference(reference: Session, candidate: Session, pictures: Sequence[Annotated]) -> float:
    """Largest absolute difference of any output value over some pictures; of scores of objects for detectors."""
    largest = 0
    differences = [0.0]
    for picture in pictures:
        options = _options(picture)
        scene = scenes(_source(picture, reference), reference.spec, options)[0]
        plan = plan_picture(scene.shape, reference, options)
        scale = measure_scene(scene, reference.spec.normalize).scale
        if reference.spec.task == "detection":
            found = [detect(scene, s, plan, scale, Stop(), lambda tiles: None) for s in (reference, candidate)]
            differences.append(_score_difference(*found))
            continue
        a, b = (predict(scene, s, plan, scale, Stop(), lambda tiles: None) for s in (reference, candidate))
        largest = max(largest, *(int(np.abs(a[k].astype(np.int32) - b[k].astype(np.int32)).max()) for k in a))
    return max(largest / SCORE_STEPS, *differences)


def _score_difference(a: Detected, b: Detected) -> float:
    """Largest difference of the scores of objects that both found: those whose boxes agree."""
    low, high = (edge(a.boxes[:, None], b.boxes[None]) for edge in (np.maximum, np.minimum))
    both = (high[..., 2:] - low[..., :2]).clip(0).prod(axis=-1)
    areas = [(found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1) for found in (a, b)]
    same = both >= SAME_OBJECT_IOU * (areas[0][:, None] + areas[1][None] - both)
    return float(np.abs(a.scores[:, None] - b.scores[None])[same].max(initial=0.0))
