"""Mask R-CNN beside torchvision's: the same weights, the same pictures, the same counts of boxes.

    cellengine train nuclei-maskrcnn-512 -o RUN --set data.path=.../split.csv --set model.depth=18 \\
        --set data.crop_px=[128,128] --set heads_only_epochs=0 --set detection.freeze_norm=false \\
        --set detection.boxes=64 --set optimizer.method=adamw --set optimizer.rate=5e-4 --set precision=bf16 \\
        --set epochs=1 --set data.samples_per_epoch=600 --set batch=4 --set validate_every=1 --set preview_every=1 \\
        --set model.detections=100 --set model.candidates=1000 --set model.proposals=1000
    cellengine export RUN -o RUN/model.onnx
    python benchmarks/mask_rcnn.py --run RUN --model RUN/model.onnx --peer-python OTHER/bin/python [--side 512]

torchvision does not work beside a CPU build of torch: OTHER is an environment with
`pip install torch==2.13.0 torchvision==0.28.0`, used for `mask_rcnn_peer.py` alone. Without --peer-python only
cellengine's own runtimes are timed. The training is as short as the comparison of two implementations allows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _pictures import DATA
from _timing import ratio, write_result
from cellengine.engine.backends import open_session
from cellengine.engine.backends.hardware import cpu_count
from cellengine.engine.session import Session
from cellengine.geometry import Region, Tile
from cellengine.io.annotated import list_annotated, read_annotated
from cellengine.models import build, read_config
from cellengine.models.checkpoint import load_checkpoint
from cellengine.models.detection import MaskRCNN
from cellengine.ops.detected import detected_in_tile, drop_doubles, label_detected
from cellengine.spec import ModelSpec
from cellengine.train.prepared import scale_picture

Array = np.ndarray[Any, Any]

PICTURES = 5
BOX_PX, SCORE, SURE = 0.5, 1e-3, 0.5
"""what counts as the same detection, and from which score detections are compared"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--model", type=Path, required=True, help="its exported model")
    parser.add_argument("--peer-python", type=Path, help="python of an environment with torch and torchvision")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(cpu_count())
    state = load_checkpoint(arguments.run / "best.pt")
    module = build(read_config(state["network"], "checkpoint"))
    assert isinstance(module, MaskRCNN)
    module.load_state_dict(state["model"])
    module.eval()
    spec = ModelSpec.from_json(state["spec"], "checkpoint")
    images = pictures(spec, arguments.side)
    figures: dict[str, Any] = {"side": arguments.side, "pictures": len(images), "model": asdict(module.config)}
    with tempfile.TemporaryDirectory() as scratch:
        peer = None
        if arguments.peer_python:
            peer, figures["peer"] = start_peer(arguments.peer_python, Path(scratch), module, images, arguments.side)
            figures["parity"] = parity(np.load(Path(scratch) / "found.npz"), module, images)
        times, shares = timed(arguments.model, peer, images, spec, arguments.runs)
        if peer is not None:
            peer.terminate()
    figures |= {"times": times, "post_processing_share": shares}
    if "torchvision" in times:
        figures["speed_up"] = {name: ratio(times, "torchvision", name) for name in times if name != "torchvision"}
    write_result(
        f"mask_rcnn_{arguments.side}",
        "Mask R-CNN beside torchvision's in eager fp32: same objects, and how much faster",
        figures,
    )


def pictures(spec: ModelSpec, side: int) -> list[Array]:
    """Validation pictures of that size (larger ones are cropped), scaled as infer does, float32 (3, side, side)."""
    found = []
    for item in list_annotated(DATA / "dsb2018" / "split.csv"):
        if item.split == "val" and len(found) < PICTURES:
            image = read_annotated(item).image
            if min(image.shape[1:]) >= side:
                several = np.broadcast_to(image, (len(spec.channels), *image.shape[1:]))
                scaled = scale_picture(several, spec.normalize).astype(np.float32)
                found.append(np.ascontiguousarray(scaled[:, :side, :side]))
    return found


def start_peer(
    python: Path, folder: Path, module: MaskRCNN, images: list[Array], side: int
) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """torchvision in a process of its own; returns it and its versions once its answers are written."""
    config = module.config
    settings = {
        **asdict(config),
        "side": side,
        "mean": module.pixel_mean.tolist(),
        "std": module.pixel_std.tolist(),
        "threads": cpu_count(),
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    weights = {k: v for k, v in module.state_dict().items() if not k.startswith("pixel_")}
    torch.save(weights, folder / "weights.pt")
    np.savez(folder / "pictures.npz", pictures=np.stack(images))
    program = Path(__file__).with_name("mask_rcnn_peer.py")
    peer = subprocess.Popen(
        [str(python), str(program), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert peer.stdout is not None
    line = peer.stdout.readline()
    if not line:
        raise SystemExit("the peer ended: see its message above")
    return peer, json.loads(line)


def parity(theirs: Any, module: MaskRCNN, images: list[Array]) -> dict[str, float]:
    """Share of sure detections of either that the other has too, and how far apart they are."""
    compared = same = 0
    worst_box = worst_score = 0.0
    for i, image in enumerate(images):
        with torch.inference_mode():
            ours = {name: value[0].numpy() for name, value in module(torch.from_numpy(image)[None]).items()}
        count = int(ours["count"])
        a = np.c_[ours["boxes"][:count][:, [1, 0, 3, 2]], ours["scores"][:count]]
        b = np.c_[theirs[f"boxes_{i}"], theirs[f"scores_{i}"]]
        for sure, others in ((a[a[:, 4] > SURE], b), (b[b[:, 4] > SURE], a)):
            for detection in sure:
                compared += 1
                nearest = (
                    others[np.abs(others[:, :4] - detection[:4]).max(1).argmin()] if len(others) else detection + 9
                )
                box, score = np.abs(nearest[:4] - detection[:4]).max(), abs(nearest[4] - detection[4])
                same += bool(box <= BOX_PX and score <= SCORE)
                if box <= BOX_PX:
                    worst_box, worst_score = max(worst_box, float(box)), max(worst_score, float(score))
    return {
        "compared": compared,
        "same": same / max(compared, 1),
        "worst_box_px": worst_box,
        "worst_score": worst_score,
    }


def timed(
    model: Path, peer: subprocess.Popen[str] | None, images: list[Array], spec: ModelSpec, runs: int
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Times of one pass over the pictures, in turn, post-processing to labels included; and its share."""
    roads = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
    names = [f"{backend} {precision}" for backend, precision in roads]
    taken: dict[str, list[float]] = {name: [] for name in (["torchvision"] if peer else []) + names}
    after: dict[str, list[float]] = {name: [] for name in names}
    sessions = {
        n: open_session(model, device="cpu", backend=b, precision=p) for n, (b, p) in zip(names, roads, strict=True)
    }
    for turn in range(runs + 1):
        if peer is not None:
            assert peer.stdin is not None
            assert peer.stdout is not None
            peer.stdin.write("run\n")
            peer.stdin.flush()
            seconds = float(peer.stdout.readline())
            if turn:
                taken["torchvision"].append(seconds)
        for name, session in sessions.items():
            whole, post = one_pass(session, images, spec)
            if turn:
                taken[name].append(whole)
                after[name].append(post / whole)
    for session in sessions.values():
        session.close()
    times = {
        n: {"median_s": float(np.median(t)), "min_s": min(t), "max_s": max(t), "runs_s": t} for n, t in taken.items()
    }
    return times, {name: float(np.median(shares)) for name, shares in after.items()}


def one_pass(session: Session, images: list[Array], spec: ModelSpec) -> tuple[float, float]:
    """Seconds of network and post-processing, and of the latter alone."""
    begun, post = time.perf_counter(), 0.0
    for image in images:
        outputs = session.run(image[None])
        answered = time.perf_counter()
        whole = Region.whole(image.shape[1:])
        found = detected_in_tile(outputs, 0, Tile(whole, whole), spec.decoder.min_score)  # type: ignore[union-attr]
        shape = (image.shape[1], image.shape[2])
        label_detected(drop_doubles(found, spec.decoder.max_iou, shape), shape)  # type: ignore[union-attr]
        post += time.perf_counter() - answered
    return time.perf_counter() - begun, post


if __name__ == "__main__":
    main()
