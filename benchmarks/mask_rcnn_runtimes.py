"""One detector in PyTorch, onnxruntime and OpenVINO: the same objects on 20 real pictures at 3 sizes; and tiled or not.

    python benchmarks/mask_rcnn_runtimes.py [--model nuclei-maskrcnn] [--pictures 20] [--mosaic 640]

PyTorch runs the network of the preset with the weights of the model file, whose golden test it must answer.

fp32 must agree within 0.01 px and 0.001 of the masks; bf16 is compared by matched objects. The form for TensorRT is
compared as well where it lies beside the model. A mosaic of real pictures is labelled in one window and in several.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from _pictures import DATA, mosaic
from _timing import write_result
from _weights import module_of
from cellengine.engine.backends import open_session
from cellengine.engine.infer import infer_array
from cellengine.engine.model_file import find_form, read_model_file, resolve_model
from cellengine.engine.options import InferOptions
from cellengine.engine.session import Outputs
from cellengine.io.annotated import list_annotated, read_annotated
from cellengine.metrics import evaluate_instances, pool
from cellengine.models.session import TorchSession
from cellengine.spec import ModelSpec
from cellengine.train.prepared import scale_picture

Array = np.ndarray[Any, Any]

SIZES = (128, 256, 384)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="nuclei-maskrcnn")
    parser.add_argument("--preset", default="nuclei-maskrcnn")
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--mosaic", type=int, default=640, help="side; one window must hold all its objects")
    arguments = parser.parse_args()
    module = module_of(arguments.model, arguments.preset)
    parent = read_model_file(resolve_model(arguments.model))
    spec = parent.spec
    forms = {"roialign": parent, "gridsample": find_form(parent, "gridsample")}
    batches = windows(spec, arguments.pictures)
    figures: dict[str, Any] = {"pictures": arguments.pictures, "sizes_px": SIZES, "rows": []}
    with TorchSession(module, spec) as reference:
        expected = [reference.run(batch) for batch in batches]
    for form, file in forms.items():
        for backend, precision in (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")):
            if file is None or (form == "gridsample" and precision == "bf16"):
                continue
            with open_session(file.path, device="cpu", backend=backend, precision=precision) as session:
                found = [session.run(batch) for batch in batches]
            row = {"form": form, "backend": backend, "precision": precision}
            figures["rows"].append(row | compare(expected, found))
    figures["tiled_equals_whole"] = tiled_equals_whole(parent.path, arguments.mosaic)
    write_result(
        "mask_rcnn_runtimes", "The same objects in every runtime, at every size, in one window or several", figures
    )


def windows(spec: ModelSpec, count: int) -> list[Array]:
    """The corners of validation pictures at each size, scaled as infer does, mirrored where they are smaller."""
    batches = []
    items = [i for i in list_annotated(DATA / "dsb2018" / "split.csv") if i.split == "val"]
    for item in items[:: max(1, len(items) // count)][:count]:
        image = read_annotated(item).image
        several = np.broadcast_to(image, (len(spec.channels), *image.shape[1:]))
        scaled = scale_picture(several, spec.normalize).astype(np.float32)
        for side in SIZES:
            missing = [(0, max(0, side - n)) for n in scaled.shape[1:]]
            padded = np.pad(scaled, [(0, 0), *missing], mode="symmetric")
            batches.append(np.ascontiguousarray(padded[None, :, :side, :side]))
    return batches


def compare(expected: list[Outputs], found: list[Outputs]) -> dict[str, float]:
    """Same counts, and over objects whose boxes agree: how far boxes, scores and masks are apart at most."""
    counts = sum(float(a["count"][0] == b["count"][0]) for a, b in zip(expected, found, strict=True))
    worst = {"box_px": 0.0, "score": 0.0, "mask": 0.0}
    objects = matched = 0
    for a, b in zip(expected, found, strict=True):
        n, m = int(a["count"][0]), int(b["count"][0])
        objects += n
        for k in range(n):
            distance = np.abs(b["boxes"][0, :m] - a["boxes"][0, k]).max(1) if m else np.array([np.inf])
            nearest = int(distance.argmin())
            if distance[nearest] <= 1.0:
                matched += 1
                worst["box_px"] = max(worst["box_px"], float(distance[nearest]))
                worst["score"] = max(worst["score"], float(abs(b["scores"][0, nearest] - a["scores"][0, k])))
                mask = np.abs(b["masks"][0, nearest] - a["masks"][0, k]).max()
                worst["mask"] = max(worst["mask"], float(mask))
    return {"same_count": counts / len(expected), "objects": objects, "within_1_px": matched / max(objects, 1), **worst}


def tiled_equals_whole(model: Path, side: int) -> list[dict[str, Any]]:
    """F1 at IoU 0.9 of labels by windows against labels by one window over the whole mosaic."""
    rows = []
    with open_session(model, device="cpu", backend="openvino", precision="fp32") as session:
        halo = session.spec.halo[0]
        for kind in ("fluorescence", "histology"):
            picture = mosaic(side, kind=kind)[None]
            whole = infer_array(picture, session, InferOptions(tile=(side + 2 * halo,) * 2)).labels
            for tile in (384, 512):
                options = InferOptions(tile=(tile, tile))
                found = infer_array(picture, session, options).labels
                f1 = pool([evaluate_instances(whole, found, (0.9,))]).at(0.9).f1
                rows.append({"kind": kind, "tile_px": tile, "f1_at_90": f1, "objects": int(whole.max())})
    return rows


if __name__ == "__main__":
    main()
