"""Does tiling change anything? Scores and labels of one real picture, whole and cut into tiles of several sizes.

python benchmarks/tiling.py [--model nuclei]
"""

from __future__ import annotations

import argparse
from typing import Any

import imageio.v3 as imageio
import numpy as np

from _pictures import DATA, mosaic
from _timing import write_result
from cellengine.engine.backends import open_session
from cellengine.engine.flow import Stop
from cellengine.engine.label import label
from cellengine.engine.model_file import resolve_model
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import plan_picture
from cellengine.engine.predict import SCORE_STEPS, Scores, predict
from cellengine.engine.scale import measure_scene
from cellengine.engine.scene import scenes
from cellengine.engine.session import Session
from cellengine.io import MemorySource
from cellengine.metrics import evaluate_instances

Array = np.ndarray[Any, Any]


def scores_and_labels(picture: Array, session: Session, options: InferOptions) -> tuple[Scores, Array]:
    scene = scenes(MemorySource(picture), session.spec, options)[0]
    plan = plan_picture(scene.shape, session, options)
    scale = measure_scene(scene, session.spec.normalize).scale
    scores = predict(scene, session, plan, scale, Stop(), lambda tiles: None)
    return scores, label(scores, session.spec.decoder)


def compare(picture: Array, session: Session, whole: InferOptions, tiled: InferOptions) -> dict[str, Any]:
    (expected, one), (found, two) = (scores_and_labels(picture, session, o) for o in (whole, tiled))
    difference = max(int(np.abs(expected[n].astype(int) - found[n].astype(int)).max()) for n in expected)
    match = evaluate_instances(one, two, (0.95,))
    return {
        "largest_difference": difference / SCORE_STEPS,
        "labels_identical": bool((one == two).all()),
        "f1_at_95": match.at(0.95).f1,
        "objects": int(one.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="nuclei")
    model = parser.parse_args().model
    field = imageio.imread(DATA / "dsb2018" / "images" / LARGEST)
    pictures = {f"field {field.shape[0]}x{field.shape[1]}": field, "mosaic 1100x1300": mosaic(1300)[:1100]}
    rows = []
    for backend in ("onnxruntime", "openvino"):
        with open_session(resolve_model(model), device="cpu", backend=backend, precision="fp32") as session:
            for name, picture in pictures.items():
                sides = tuple(-(-n // 16) * 16 + 2 * 112 for n in picture.shape[:2])
                whole = InferOptions(tile=sides, halo="exact")
                for tile in (320, 512, 1024):
                    row = {"backend": backend, "picture": name, "tile": tile, "halo": "exact"}
                    rows.append(row | compare(picture, session, whole, InferOptions(tile=(tile, tile), halo="exact")))
                for tile in (320, 512):
                    row = {"backend": backend, "picture": name, "tile": tile, "halo": "auto"}
                    rows.append(row | compare(picture, session, whole, InferOptions(tile=(tile, tile), halo="auto")))
    exact = [r for r in rows if r["halo"] == "exact"]
    auto = [r for r in rows if r["halo"] == "auto"]
    summary = {
        "exact_largest_difference": max(r["largest_difference"] for r in exact),
        "exact_labels_identical": all(r["labels_identical"] for r in exact),
        "auto_largest_difference": max(r["largest_difference"] for r in auto),
        "auto_least_f1_at_95": min(r["f1_at_95"] for r in auto),
    }
    write_result("tiling", "Do scores and labels depend on the tiling?", {"summary": summary, "rows": rows})


LARGEST = "c901794d1a421d52.png"

if __name__ == "__main__":
    main()
