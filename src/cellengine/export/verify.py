"""The parity gate: a precision is accepted when it finds the same objects as fp32 PyTorch on real pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellengine.engine.flow import Stop
from cellengine.engine.infer import infer_array
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import plan_picture
from cellengine.engine.predict import SCORE_STEPS, predict
from cellengine.engine.scale import measure_scene
from cellengine.engine.scene import scenes
from cellengine.engine.session import Session
from cellengine.io import MemorySource
from cellengine.metrics import InstanceScores, evaluate_instances, mean_over_pictures, pool
from cellengine.spec import Parity

Array = np.ndarray[Any, Any]

SAME_OBJECT_IOU = 0.8
LEAST_F1, LARGEST_COUNT_DIFFERENCE, LARGEST_AP_FALL = 0.99, 0.005, 0.003


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

    labels: list[Array]
    mean_ap: float


def answer(session: Session, pictures: Sequence[Annotated]) -> Answer:
    """Run the production engine on every picture and score it against the truth."""
    labels = [infer_array(p.image, session).labels for p in pictures]
    scores = [evaluate_instances(p.truth, found) for p, found in zip(pictures, labels, strict=True)]
    return Answer(labels, mean_over_pictures(scores)["mean_ap"])


def verify(reference: Session, expected: Answer, candidate: Session, pictures: Sequence[Annotated]) -> Parity:
    """Compare `candidate` with `expected`, the answer of `reference` (fp32 PyTorch), on the same pictures."""
    found = answer(candidate, pictures)
    same: list[InstanceScores] = [
        evaluate_instances(a, b, (SAME_OBJECT_IOU,)) for a, b in zip(expected.labels, found.labels, strict=True)
    ]
    together = pool(same)
    f1 = together.at(SAME_OBJECT_IOU).f1
    count = abs(together.n_predicted - together.n_true) / max(1, together.n_true)
    change = found.mean_ap - expected.mean_ap
    passed = f1 >= LEAST_F1 and count <= LARGEST_COUNT_DIFFERENCE and change >= -LARGEST_AP_FALL
    return Parity(
        precision=candidate.precision,
        backend=candidate.backend,
        device=candidate.device,
        passed=passed,
        pictures=len(pictures),
        max_difference=round(_largest_difference(reference, candidate, pictures[:8]), 6),
        f1_at_80=round(f1, 5),
        count_difference=round(count, 5),
        mean_ap_change=round(change, 5),
    )


def _largest_difference(reference: Session, candidate: Session, pictures: Sequence[Annotated]) -> float:
    """Largest absolute difference of any output value over some pictures."""
    largest = 0
    for picture in pictures:
        channels = range(len(picture.image))
        options = InferOptions(channel=tuple(map(str, channels)) if len(channels) > 1 else ())
        source = MemorySource(picture.image, "C" + reference.spec.axes, voxel_size_um=reference.spec.voxel_size_um)
        scene = scenes(source, reference.spec, options)[0]
        plan = plan_picture(scene.shape, reference, options)
        scale = measure_scene(scene, reference.spec.normalize).scale
        a, b = (predict(scene, s, plan, scale, Stop(), lambda tiles: None) for s in (reference, candidate))
        largest = max(largest, *(int(np.abs(a[k].astype(np.int32) - b[k].astype(np.int32)).max()) for k in a))
    return largest / SCORE_STEPS
