"""What does the engine cost beside the network? `infer` from file to files against the bare session on the same tiles.

`infer` opens its session anew each time, so it is compared with a bare session that is opened, run and closed too; the
ratio to one that is open and warm stands beside it.

python benchmarks/overhead.py [--side 4096] [--runs 5]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from _pictures import mosaic
from _timing import paired, ratio, write_result
from cellengine.engine.backends import open_session
from cellengine.engine.batch import Device, infer_files
from cellengine.engine.flow import Stop, overlap
from cellengine.engine.journal import RUN, read_json
from cellengine.engine.model_file import resolve_model
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import plan_picture
from cellengine.engine.session import Session


def bare(session: Session, shape: tuple[int, int], options: InferOptions) -> Callable[[], object]:
    """The network alone: as many batches of the same shape as `infer` needs, called by as many threads."""
    plan = plan_picture(shape, session, options)
    batch = np.random.default_rng(0).random((1, len(session.spec.channels), *plan.tile), dtype=np.float32)
    return lambda: list(overlap(lambda _: session.run(batch), range(len(plan.tiles)), session.concurrency, Stop()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default="nuclei")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    picture = folder / "mosaic.tif"
    tifffile.imwrite(picture, mosaic(arguments.side), tile=(512, 512), compression="zlib")
    figures: dict[str, Any] = {"side": arguments.side}
    for backend, precision in (("openvino", "bf16"), ("onnxruntime", "fp32")):
        options, device = InferOptions(), Device("cpu", backend, precision)

        def whole(options: InferOptions = options, device: Device = device) -> None:
            infer_files([str(picture)], arguments.model, folder / "out", options, device, restart=True)

        def opened(backend: str = backend, precision: str = precision) -> Session:
            return open_session(resolve_model(arguments.model), device="cpu", backend=backend, precision=precision)

        def cold(options: InferOptions = options, opened: Callable[[], Session] = opened) -> None:
            with opened() as session:
                bare(session, (arguments.side, arguments.side), options)()

        with opened() as session:
            warm = bare(session, (arguments.side, arguments.side), options)
            times = paired({"infer": whole, "session": cold, "warm_session": warm}, arguments.runs)
        record = read_json(folder / "out" / RUN)["files"]["mosaic.tif"]
        figures[f"{backend}_{precision}"] = {
            "overhead": ratio(times, "infer", "session"),
            "overhead_over_warm_session": ratio(times, "infer", "warm_session"),
            "times": times,
            "tile": record["tile"],
            "halo": record["halo"],
            "objects": record["objects"],
            "stages_s": record["seconds"],
        }
    shutil.rmtree(folder)
    write_result("overhead", "Wall time of infer (labels, table, overlay written) over the bare network's", figures)


if __name__ == "__main__":
    main()
