"""Does `auto` pick well? What it chose on its small tile against every combination on a real picture.

python benchmarks/auto.py [--model nuclei] [--side 2048] [--runs 3]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from typing import Any

from _pictures import mosaic
from _timing import paired, write_result
from cellengine.engine.backends import BACKENDS, available, best_choice
from cellengine.engine.flow import Stop
from cellengine.engine.model_file import read_model_file, resolve_model
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import plan_picture
from cellengine.engine.predict import predict
from cellengine.engine.scale import measure_scene
from cellengine.engine.scene import scenes
from cellengine.io import MemorySource


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    model = read_model_file(resolve_model(arguments.model))
    picture = mosaic(arguments.side)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        os.environ["CELLENGINE_CACHE"] = folder
        candidates = available(model)
        chosen = best_choice(model, candidates)
        functions: dict[str, Any] = {}
        for c in candidates:
            if c.model is None or c.problem:
                continue
            session = opened.enter_context(BACKENDS[c.backend]().open(c.model, c.device, c.precision, None))
            scene = scenes(MemorySource(picture), session.spec, InferOptions())[0]
            plan = plan_picture(scene.shape, session, InferOptions())
            scale = measure_scene(scene, session.spec.normalize).scale

            def run(scene: Any = scene, session: Any = session, plan: Any = plan, scale: Any = scale) -> None:
                predict(scene, session, plan, scale, Stop(), lambda tiles: None)

            functions["/".join((c.backend, c.device, c.precision))] = run
        times = paired(functions, arguments.runs)
    picked = "/".join(chosen.combination)
    best = min(times, key=lambda key: times[key]["median_s"])
    write_result(
        "auto",
        "The network's part of infer with what auto picked, over that of the fastest combination",
        {
            "side": arguments.side,
            "picked": picked,
            "fastest": best,
            "picked_over_fastest": times[picked]["median_s"] / times[best]["median_s"],
            "times": times,
        },
    )


if __name__ == "__main__":
    main()
