"""What the benchmarks of `cellengine watch` share: a watcher as a process of its own, its journal, its pictures."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import tifffile
from onnx import helper

from cellengine.spec import INPUT_NAME, METADATA_KEY, DistanceWatershed, ModelSpec, Normalize, Output


def start(folder: Path, output: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Watch `folder`; what is said goes to a file beside the output."""
    program = "from cellengine.cli import main; main()"
    command = [sys.executable, "-c", program, "watch", str(folder), "-o", str(output), "--no-page", *arguments]
    with output.with_name("said.txt").open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said)


def ask(output: Path, query: str) -> list[tuple[float, ...]]:
    """Rows of the journal, read beside the watcher; none as long as there is no journal."""
    journal = output / ".watch.sqlite"
    if not journal.exists():
        return []
    try:
        with sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=30) as db:
            return list(db.execute(query))
    except sqlite3.OperationalError:  # its tables are being made
        return []


def done(output: Path) -> int:
    """Pictures that are labelled."""
    rows = ask(output, "SELECT COUNT(*) FROM pictures WHERE kind = 'done'")
    return int(rows[0][0]) if rows else 0


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            raise SystemExit("it did not come in time: see said.txt")
        time.sleep(0.2)


def write_cells(path: Path, side: int, seed: int) -> None:
    """A grey picture of bright round cells, written as a microscope would: in place."""
    random = np.random.default_rng(seed)
    picture = random.normal(20, 4, (side, side)).astype(np.float32)
    y, x = np.mgrid[-9:10, -9:10]
    for _ in range(side * side // 1500):
        cy, cx = random.integers(9, max(10, side - 9), 2)
        box = picture[cy - 9 : cy + 10, cx - 9 : cx + 10]
        if box.shape == y.shape:
            box[np.hypot(y, x) <= random.uniform(4, 8)] += random.uniform(80, 160)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, picture.clip(0, 255).astype(np.uint8))


def write_tiny_model(path: Path) -> None:
    """A model that answers at once: what is bright is a cell. For measuring everything but the network."""
    outputs = (Output("foreground"), Output("distance"))
    spec = ModelSpec(
        name="tiny",
        task="instances",
        axes="YX",
        channels=("gray",),
        tile=(64, 64),
        divisor=(4, 4),
        receptive_field=(3, 3),
        halo=(4, 4),
        normalize=Normalize("percentile", 1.0, 99.0),
        outputs=outputs,
        decoder=DistanceWatershed(),
    )
    weight = onnx.numpy_helper.from_array(np.full((1, 1, 3, 3), 1.0, np.float32), "weight")
    bias = onnx.numpy_helper.from_array(np.full(1, -4.5, np.float32), "bias")
    nodes = []
    for output in outputs:
        nodes.append(helper.make_node("Conv", [INPUT_NAME, "weight", "bias"], [f"{output.name}.sum"], pads=[1] * 4))
        nodes.append(helper.make_node("Sigmoid", [f"{output.name}.sum"], [output.name]))
    picture = ["batch", 1, "height", "width"]
    sides = [helper.make_tensor_value_info(o.name, onnx.TensorProto.FLOAT, picture) for o in outputs]
    taken = helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.FLOAT, picture)
    graph = helper.make_graph(nodes, "tiny", [taken], sides, [weight, bias])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, {METADATA_KEY: spec.to_json()})
    onnx.save(proto, path)
