"""Against what a user would do instead: MONAI's sliding window on PyTorch, same net, same picture, network part only.

    python benchmarks/sliding_window.py [--model nuclei --preset nuclei-unet] [--side 2048] [--runs 3]

PyTorch gets the weights of the model file, in the network of the preset.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from _pictures import mosaic
from _timing import paired, ratio, write_result
from _weights import module_of
from cellengine.engine.backends import open_session
from cellengine.engine.flow import Stop
from cellengine.engine.model_file import resolve_model
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import plan_picture
from cellengine.engine.predict import SCORE_STEPS, predict, read_scaled
from cellengine.engine.scale import measure_scene
from cellengine.engine.scene import scenes
from cellengine.geometry import Region
from cellengine.io import MemorySource


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--preset", default="nuclei-unet")
    arguments = parser.parse_args()
    module = module_of(arguments.model, arguments.preset)
    figures: dict[str, Any] = {"side": arguments.side, "rows": []}
    with open_session(resolve_model(arguments.model), device="cpu", backend="openvino", precision="bf16") as session:
        options = InferOptions()
        scene = scenes(MemorySource(mosaic(arguments.side)), session.spec, options)[0]
        plan = plan_picture(scene.shape, session, options)
        scale = measure_scene(scene, session.spec.normalize).scale
        whole = np.empty((len(session.spec.channels), *scene.shape), np.float32)
        read_scaled(scene, Region.whole(scene.shape), scale, whole)
        image = torch.from_numpy(whole)[None]

        def ours() -> dict[str, Any]:
            return predict(scene, session, plan, scale, Stop(), lambda tiles: None)

        for side in (256, 512):
            for mode in ("constant", "gaussian"):

                def peer(side: int = side, mode: str = mode) -> dict[str, torch.Tensor]:
                    with torch.inference_mode():
                        return sliding_window_inference(image, (side, side), 4, module, overlap=0.5, mode=mode)

                times = paired({"monai": peer, "cellengine": ours}, arguments.runs)
                seams = seam_error(peer(), module, image)
                row = {"window_px": side, "blending": mode, "speed_up": ratio(times, "monai", "cellengine")}
                figures["rows"].append(row | {"monai_pixels_off_by_0.1": seams, "times": times})
        exact = InferOptions(halo="exact")
        found = predict(scene, session, plan_picture(scene.shape, session, exact), scale, Stop(), lambda tiles: None)
        auto = ours()
        figures["cellengine"] = {
            "tile": list(plan.tile),
            "halo": list(plan.halo),
            "auto_against_exact_largest_difference_bf16": max(
                int(np.abs(found[n].astype(int) - auto[n].astype(int)).max()) / SCORE_STEPS for n in auto
            ),
        }
    figures["speed_up_least"] = min(row["speed_up"] for row in figures["rows"])
    write_result("sliding_window", "Network part of infer against MONAI's sliding window, overlap 0.5, fp32", figures)


def seam_error(found: dict[str, torch.Tensor], module: torch.nn.Module, image: torch.Tensor) -> float:
    """Share of pixels where the blended foreground is off by more than 0.1 from the whole picture's, borders aside."""
    with torch.inference_mode():
        expected = module(image)["foreground"]
    inner = (..., slice(128, -128), slice(128, -128))
    return float(((found["foreground"][inner] - expected[inner]).abs() > 0.1).float().mean())


if __name__ == "__main__":
    main()
