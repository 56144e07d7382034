"""From file to files against what a user would write instead: PyTorch eager fp32, MONAI's sliding window with overlap
0.5, scipy and scikit-image for scaling, labels and table. The same network; the peer is timed once, it takes minutes.

    python benchmarks/end_to_end.py picture [--model nuclei --preset nuclei-unet] [--side 4096] [--runs 3]
    python benchmarks/end_to_end.py volume [--model nuclei3d --preset nuclei3d] [--runs 1]
        [--volume VOLUME.tif] [--shape 128,1024,1024] [--share 0.25]

PyTorch gets the weights of the model file, in the network of the preset; it has BatchNorm as training left it.

A volume that is smaller is mirrored to the shape that is asked for. The peer gets `--share` of it, cut along y, and its
time is divided by that share: kind to the peer, whose windows overlap less in a smaller volume and whose sorting takes
more than proportional time. What is found is written after each part, so that a call that is cut short leaves ours.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from monai.inferers import sliding_window_inference
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.measure import label, regionprops_table
from skimage.morphology import h_maxima, remove_small_objects
from skimage.segmentation import watershed

from _pictures import DATA, mosaic
from _timing import seconds, write_result
from _weights import module_of
from cellengine.cli.options import parse_tile
from cellengine.engine.batch import Device, infer_files
from cellengine.engine.journal import RUN, read_json
from cellengine.engine.model_file import read_model_file, resolve_model
from cellengine.engine.options import InferOptions
from cellengine.geometry import Region
from cellengine.io import open_source
from cellengine.spec import BoundaryWatershed, DistanceWatershed, ModelSpec

Array = np.ndarray[Any, Any]
EMBRYO = DATA / "volumes" / "embryo" / "Emb02_t451_raw.ome.tif"
"""32 nuclei, of an embryo that no training saw"""


def peer(path: Path, module: torch.nn.Module, spec: ModelSpec, folder: Path) -> dict[str, Any]:
    """The usual stack, as the documentation of its parts writes it: objects, and seconds of each part."""
    clock = [time.perf_counter()]
    raw = tifffile.imread(path).astype(np.float32)
    low, high = np.percentile(raw, (spec.normalize.low, spec.normalize.high)).astype(np.float32)
    scaled = (raw - low) / max(high - low, np.float32(1e-6))
    if spec.normalize.clip is not None:
        scaled = scaled.clip(*spec.normalize.clip)
    image = torch.from_numpy(np.broadcast_to(scaled, (len(spec.channels), *raw.shape)).copy())[None]
    window = tuple(min(n, 512 if raw.ndim == 2 else 96) // d * d for n, d in zip(raw.shape, spec.divisor, strict=True))
    clock.append(time.perf_counter())
    with torch.inference_mode():
        answers = sliding_window_inference(image, window, 4, module, overlap=0.5)
    clock.append(time.perf_counter())
    labels = decode({name: values[0, 0].numpy() for name, values in answers.items()}, spec)
    clock.append(time.perf_counter())
    table = regionprops_table(labels, raw, properties=("label", "area", "centroid", "bbox", "intensity_mean"))
    tifffile.imwrite(folder / "labels.tif", labels.astype(np.uint32), compression="zlib")
    with (folder / "objects.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    clock.append(time.perf_counter())
    parts = ("read and scale", "network", "labels", "table and files")
    stages = {name: b - a for name, a, b in zip(parts, clock, clock[1:], strict=False)}
    return {"objects": int(labels.max()), "stages_s": stages, "window": window, "voxels": raw.size}


def decode(scores: dict[str, Array], spec: ModelSpec) -> Array:
    """Scores to labels with scipy and scikit-image."""
    decoder = spec.decoder
    if isinstance(decoder, DistanceWatershed):
        mask = scores["foreground"] > decoder.threshold
        distance = ndimage.gaussian_filter(scores["distance"], decoder.smoothing_px)
        seeds = label(h_maxima(distance, decoder.h))
        found = watershed(-distance, seeds, mask=mask)
    elif isinstance(decoder, BoundaryWatershed):
        inside = scores["boundary"] <= decoder.threshold
        distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside), decoder.smoothing_px)
        seeds = np.zeros(inside.shape, np.int32)
        peaks = peak_local_max(distance, min_distance=3, labels=label(inside))
        seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        found = watershed(scores["boundary"], seeds)
    else:
        raise SystemExit(f"the usual stack has no counterpart of {decoder.kind}")
    labels: Array = label(remove_small_objects(found, max_size=decoder.min_size_px))
    return labels


def ours(path: Path, model: str, folder: Path, runs: int) -> dict[str, Any]:
    """`infer` as the command runs it; the first run chooses the backend and warms the caches."""
    taken = []
    for _ in range(runs + 1):
        how = InferOptions(), Device("cpu")
        taken.append(seconds(lambda how=how: infer_files([str(path)], model, folder, *how, restart=True)))
    record = read_json(folder / RUN)
    (entry,) = record["files"].values()
    return {
        "cellengine_s": taken[1:],
        "first_run_s": taken[0],
        "session": record["session"],
        "stages_s": entry["seconds"],
        "tile": entry["tile"],
        "objects": entry["objects"],
        "shape": entry["shape"],
    }


def compare(name: str, paths: tuple[Path, Path], arguments: argparse.Namespace, folder: Path) -> None:
    """Ours on the whole, then the peer on its share; the result is written after each."""
    spec = read_model_file(resolve_model(arguments.model)).spec
    question = "infer, file to files, against PyTorch + MONAI + scipy + scikit-image"
    figures = ours(paths[0], arguments.model, folder / "ours", arguments.runs)
    write_result(name, question, figures)
    module = module_of(arguments.model, arguments.preset)
    found: list[dict[str, Any]] = []
    taken = seconds(lambda: found.append(peer(paths[1], module, spec, folder)))
    share = found[0]["voxels"] / prod(figures["shape"])
    theirs = {"usual_stack_s": taken, "usual_stack_share": share, "usual_stack": found[0]}
    speed_up = taken / share / statistics.median(figures["cellengine_s"])
    write_result(name, question, {"speed_up": speed_up, **figures, **theirs})


def repeated(path: Path, shape: tuple[int, ...]) -> Array:
    """The first channel of a volume, mirrored until it fills `shape`."""
    with open_source(path) as source:
        volume = source.read(Region.whole(source.shape))
    volume = volume[0] if volume.ndim == 4 else volume
    pad = [(0, max(0, want - have)) for want, have in zip(shape, volume.shape, strict=True)]
    return np.ascontiguousarray(np.pad(volume, pad, mode="symmetric")[tuple(map(slice, shape))])


def picture(arguments: argparse.Namespace, folder: Path) -> None:
    path = folder / "mosaic.tif"
    tifffile.imwrite(path, mosaic(arguments.side), tile=(512, 512), compression="zlib")
    compare("end_to_end_picture", (path, path), arguments, folder)


def volume(arguments: argparse.Namespace, folder: Path) -> None:
    values = repeated(arguments.volume, parse_tile("--shape", arguments.shape))
    spec = read_model_file(resolve_model(arguments.model)).spec
    sizes = zip("ZYX", spec.voxel_size_um or (), strict=False)
    known = {f"PhysicalSize{axis}": size for axis, size in sizes} | {f"PhysicalSize{axis}Unit": "µm" for axis in "ZYX"}
    whole, part = folder / "volume.ome.tif", folder / "part.tif"
    tifffile.imwrite(whole, values, ome=True, metadata={"axes": "ZYX", **known})
    tifffile.imwrite(part, values[:, : round(arguments.share * values.shape[1])])
    compare("end_to_end_volume", (whole, part), arguments, folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(required=True)
    unet = "nuclei", "nuclei-unet"
    both = (("picture", picture, *unet, 3), ("volume", volume, "nuclei3d", "nuclei3d", 1))
    for name, function, model, preset, runs in both:
        kind = kinds.add_parser(name)
        kind.set_defaults(function=function)
        kind.add_argument("--model", default=model)
        kind.add_argument("--preset", default=preset)
        kind.add_argument("--runs", type=int, default=runs)
    kinds.choices["picture"].add_argument("--side", type=int, default=4096)
    kinds.choices["volume"].add_argument("--volume", type=Path, default=EMBRYO)
    kinds.choices["volume"].add_argument("--shape", default="128,1024,1024")
    kinds.choices["volume"].add_argument("--share", type=float, default=0.25)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        arguments.function(arguments, Path(name))


if __name__ == "__main__":
    main()
