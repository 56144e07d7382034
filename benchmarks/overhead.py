"""What does the engine cost beside the network? `infer` from file to files against the bare session on the same tiles.

`infer` opens its session anew each time, so it is compared with a bare session that is opened, run and closed too; the
ratio to one that is open and warm stands beside it.

python benchmarks/overhead.py [--side 4096] [--runs 5]                  # a picture, the bundled model
python benchmarks/overhead.py --volume 96,256,256 [--runs 3]            # a volume, a network of nuclei3d's size
python benchmarks/overhead.py --volume 128,512,512 --max-ram 1GB --runs 1    # in blocks
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
from _volumes import cells, write_unet3d
from cellengine.cli.options import parse_bytes
from cellengine.engine.backends import open_session
from cellengine.engine.batch import Device, infer_files
from cellengine.engine.flow import Stop, overlap
from cellengine.engine.journal import RUN, read_json
from cellengine.engine.model_file import resolve_model
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import plan_picture
from cellengine.engine.session import Session

BOTH = (("openvino", "bf16"), ("onnxruntime", "fp32"))


def bare(session: Session, shape: tuple[int, ...], options: InferOptions, *, cores: bool) -> Callable[[], object]:
    """The network alone: as many batches of the same shape as `infer` needs, called by as many threads.

    `cores`: it answers the cores of tiles, as `infer` asks it to; otherwise all of every tile, as it was exported.
    """
    plan = plan_picture(shape, session, options)
    batch = np.random.default_rng(0).random((1, len(session.spec.channels), *plan.tile), dtype=np.float32)
    halo = plan.halo if cores else None
    return lambda: list(overlap(lambda _: session.run(batch, halo), range(len(plan.grid)), session.concurrency, Stop()))


def compare(
    picture: Path, model: str, device: Device, shape: tuple[int, ...], options: InferOptions, runs: int
) -> dict[str, Any]:
    """The figures of one backend and precision."""
    output = picture.parent / "out"

    def opened() -> Session:
        return open_session(
            resolve_model(model), device=device.device, backend=device.backend, precision=device.precision
        )

    def cold(cores: bool) -> None:
        with opened() as session:
            bare(session, shape, options, cores=cores)()

    functions = {
        "infer": lambda: infer_files([str(picture)], model, output, options, device, restart=True),
        "session": lambda: cold(False),
        "session_of_cores": lambda: cold(True),
    }
    times = paired(functions, runs)
    with opened() as session:  # not beside the others: `infer` is alone on a machine, and its memory is its own
        times |= paired({"warm_session": bare(session, shape, options, cores=False)}, runs)
    (record,) = read_json(output / RUN)["files"].values()
    return {
        "overhead": ratio(times, "infer", "session"),
        "overhead_over_cores": ratio(times, "infer", "session_of_cores"),
        "overhead_over_warm_session": ratio(times, "infer", "warm_session"),
        "times": times,
        **{name: record[name] for name in ("tile", "halo", "objects")},
        "blocks": record.get("blocks", 0),
        "stages_s": record["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--volume", help="z,y,x: a volume of this size, in OpenVINO bf16, instead of a picture")
    parser.add_argument("--max-ram")
    arguments = parser.parse_args()
    options = InferOptions(max_ram=parse_bytes("--max-ram", arguments.max_ram) if arguments.max_ram else None)
    folder = Path(tempfile.mkdtemp())
    figures: dict[str, Any] = {}
    if arguments.volume:
        shape = tuple(int(n) for n in arguments.volume.split(","))
        picture, model, ways = folder / "volume.ome.tif", str(write_unet3d(folder / "unet3d.onnx")), BOTH[:1]
        tifffile.imwrite(picture, cells(shape), tile=(128, 128), compression="zlib", metadata={"axes": "ZYX"}, ome=True)
        name = "overhead_volume" + ("_blocks" if arguments.max_ram else "")
    else:
        shape, model, ways, name = (arguments.side,) * 2, arguments.model, BOTH, "overhead"
        picture = folder / "mosaic.tif"
        tifffile.imwrite(picture, mosaic(arguments.side), tile=(512, 512), compression="zlib")
    for backend, precision in ways:
        device = Device("cpu", backend, precision)
        figures[f"{backend}_{precision}"] = compare(picture, model, device, shape, options, arguments.runs)
    shutil.rmtree(folder)
    question = "Wall time of infer (labels, table, overlay written) over the bare network's"
    write_result(name, question, {"shape": shape, "max_ram": arguments.max_ram, **figures})


if __name__ == "__main__":
    main()
