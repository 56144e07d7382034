"""torchvision's side of mask_rcnn.py, run by it with --peer-python; needs torch and torchvision, not cellengine.

The folder given holds settings.json, weights.pt (a state dictionary under torchvision's names) and pictures.npz. Loads
them, writes found.npz, and then answers every line on standard input with the seconds of one pass over the pictures.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone


def build(settings: dict) -> MaskRCNN:
    """The network of cellengine's settings, out of torchvision's parts; pictures are not resized."""
    backbone = resnet_fpn_backbone(
        backbone_name=f"resnet{settings['depth']}",
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        trainable_layers=5,
    )
    anchors = AnchorGenerator(
        tuple((side,) for side in settings["anchor_px"]),
        (tuple(settings["anchor_ratios"]),) * len(settings["anchor_px"]),
    )
    return MaskRCNN(
        backbone,
        num_classes=settings["classes"] + 1,
        min_size=settings["side"],
        max_size=settings["side"],
        image_mean=settings["mean"],
        image_std=settings["std"],
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_test=settings["candidates"],
        rpn_post_nms_top_n_test=settings["proposals"],
        rpn_nms_thresh=settings["proposal_iou"],
        box_score_thresh=settings["min_score"],
        box_nms_thresh=settings["detection_iou"],
        box_detections_per_img=settings["detections"],
    ).eval()


def main() -> None:
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    model = build(settings)
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    images = [torch.from_numpy(image) for image in np.load(folder / "pictures.npz")["pictures"]]
    with torch.inference_mode():
        found = [model([image])[0] for image in images]
        arrays = {
            f"{name}_{i}": answer[name].numpy()
            for i, answer in enumerate(found)
            for name in ("boxes", "scores", "labels")
        }
        np.savez(folder / "found.npz", **arrays)
        print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__}), flush=True)
        for _ in sys.stdin:
            begun = time.perf_counter()
            for image in images:
                model([image])
            print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    main()
