"""A tile that the network, its runtime or the disk cannot get over: the run ends with one error and no outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tifffile
import zarr
from onnx import helper, numpy_helper

from cellengine.engine.batch import Device, infer_files
from cellengine.engine.options import InferOptions
from cellengine.errors import CellengineError, InputError, ModelError, PartialFailure
from cellengine.spec import INPUT_NAME, METADATA_KEY
from tests.engine.blobs import blob_spec, write_blob_model
from tests.synthetic import draw_cells

HOW = Device("cpu", "onnxruntime", "fp32")
OPTIONS = {"whole": InferOptions(tile=(64,)), "blocks": InferOptions(tile=(64,), max_ram=3_000_000)}


def no_numbers() -> tuple[list[Any], list[Any]]:
    """Nodes whose answer is the root of a negative number where a picture is brightest."""
    nodes = [
        helper.make_node("Sub", ["limit", INPUT_NAME], ["rest"]),
        helper.make_node("Sqrt", ["rest"], ["foreground"]),
        helper.make_node("Sqrt", ["rest"], ["distance"]),
    ]
    return nodes, [numpy_helper.from_array(np.array([0.9], np.float32), "limit")]


def no_answer() -> tuple[list[Any], list[Any]]:
    """Nodes that look behind the end of a list when a tile holds the brightest value of its picture."""
    nodes = [
        helper.make_node("ReduceMax", [INPUT_NAME], ["brightest"], keepdims=0),
        helper.make_node("Mul", ["brightest", "many"], ["number"]),
        helper.make_node("Cast", ["number"], ["index"], to=onnx.TensorProto.INT64),
        helper.make_node("Gather", ["list", "index"], ["one"]),
        helper.make_node("Mul", [INPUT_NAME, "one"], ["foreground"]),
        helper.make_node("Mul", [INPUT_NAME, "one"], ["distance"]),
    ]
    weights = {"many": np.array(10, np.float32), "list": np.ones(10, np.float32)}
    return nodes, [numpy_helper.from_array(values, name) for name, values in weights.items()]


def write_model(path: Path, graph: Callable[[], tuple[list[Any], list[Any]]]) -> Path:
    nodes, weights = graph()
    shape = ["batch", 1, "height", "width"]
    image, *outputs = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in (INPUT_NAME, "foreground", "distance")
    )
    proto = helper.make_model(
        helper.make_graph(nodes, "poison", [image], outputs, weights),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    helper.set_model_props(proto, {METADATA_KEY: blob_spec().to_json()})
    onnx.save(proto, path)
    return path


def left(folder: Path) -> list[str]:
    """What is in an output folder, but for the record of the run."""
    return sorted(p.name for p in folder.iterdir() if p.name not in (".lock", ".journal.jsonl"))


@pytest.mark.parametrize("way", OPTIONS)
@pytest.mark.parametrize(
    ("graph", "error", "text"),
    [(no_numbers, InputError, r"spot\.tif: found NaN or infinity in the foreground .* tile at \(-?\d+, -?\d+\)"),
     (no_answer, ModelError, "onnxruntime .*indices element out of data bounds")],
)  # fmt: skip
def test_a_tile_without_an_answer_ends_the_run(
    tmp_path: Path, graph: Callable[[], Any], error: type[CellengineError], text: str, way: str
) -> None:
    model = write_model(tmp_path / "poison.onnx", graph)
    spot = tmp_path / "spot.tif"
    tifffile.imwrite(spot, draw_cells((300, 330), 60, 4, (5, 8))[0])
    with pytest.raises(error, match=text) as raised:
        infer_files([str(spot)], str(model), tmp_path / "out", OPTIONS[way], HOW)
    assert "\n" not in str(raised.value)
    found = left(tmp_path / "out")
    # what the runtime cannot do it may do another time: what is finished is kept
    assert found in ([], [".spot.scratch"])
    assert not found or error is ModelError


def test_a_damaged_chunk_of_one_input_spares_the_other(tmp_path: Path) -> None:
    """In blocks; when the chunk is mended the same command does what is left."""
    image, _ = draw_cells((300, 330), 60, 4, (5, 8))
    for name in ("bad", "good"):
        stored = zarr.create_array(tmp_path / f"{name}.zarr", shape=image.shape, chunks=(64, 64), dtype=image.dtype)
        stored[...] = image
    chunk = tmp_path / "bad.zarr/c/2/3"
    data = chunk.read_bytes()
    chunk.write_bytes(data[: len(data) // 2])
    model = write_blob_model(tmp_path / "blobs.onnx")
    inputs = [str(tmp_path / f"{name}.zarr") for name in ("bad", "good")]
    run = (inputs, str(model), tmp_path / "out", OPTIONS["blocks"], HOW)
    with pytest.raises(PartialFailure, match=r"1 of 2 inputs failed, first bad\.zarr: cannot be read"):
        infer_files(*run)
    assert {name.split(".")[0] for name in left(tmp_path / "out")} == {"failures", "good", "run", "report"}
    chunk.write_bytes(data)
    infer_files(*run)
    tables = [(tmp_path / "out" / f"{name}.objects.csv").read_bytes() for name in ("bad", "good")]
    assert tables[0] == tables[1]
