"""From file to files against what a user would write instead: PyTorch eager fp32, MONAI's sliding window with overlap
0.5, scipy and scikit-image for scaling, labels and table. The same network; the peer is timed once, it takes minutes.

    python benchmarks/end_to_end.py --checkpoint runs/nuclei/best.pt [--model nuclei] [--side 4096] [--runs 3]
        [--volume-checkpoint runs/cells3d/best.pt --volume-model cells3d --volume VOLUME.tif]
        [--volume-shape 128,1024,1024]

A picture or volume that is smaller is repeated to the shape that is asked for.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import statistics
import tempfile
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

from _pictures import mosaic
from _timing import seconds, write_result
from cellengine.engine.batch import Device, infer_files
from cellengine.engine.journal import RUN, read_json
from cellengine.engine.model_file import read_model_file, resolve_model
from cellengine.engine.options import InferOptions
from cellengine.geometry import Region
from cellengine.io import open_source
from cellengine.models import build, read_config
from cellengine.models.checkpoint import load_checkpoint
from cellengine.spec import BoundaryWatershed, DistanceWatershed, ModelSpec

Array = np.ndarray[Any, Any]


def module_of(checkpoint: Path) -> torch.nn.Module:
    state = load_checkpoint(checkpoint)
    module = build(read_config(state["network"], str(checkpoint)))
    module.load_state_dict(state["model"])
    return module.eval()


def peer(path: Path, module: torch.nn.Module, spec: ModelSpec, folder: Path) -> int:
    """The usual stack, as the documentation of its parts writes it; returns the number of objects."""
    raw = tifffile.imread(path).astype(np.float32)
    low, high = np.percentile(raw, (spec.normalize.low, spec.normalize.high)).astype(np.float32)
    scaled = (raw - low) / max(high - low, np.float32(1e-6))
    if spec.normalize.clip is not None:
        scaled = scaled.clip(*spec.normalize.clip)
    image = torch.from_numpy(np.broadcast_to(scaled, (len(spec.channels), *raw.shape)).copy())[None]
    window = tuple(min(n, 512 if raw.ndim == 2 else 96) // d * d for n, d in zip(raw.shape, spec.divisor, strict=True))
    with torch.inference_mode():
        answers = sliding_window_inference(image, window, 4, module, overlap=0.5)
    labels = decode({name: values[0, 0].numpy() for name, values in answers.items()}, spec)
    table = regionprops_table(labels, raw, properties=("label", "area", "centroid", "bbox", "intensity_mean"))
    tifffile.imwrite(folder / "labels.tif", labels.astype(np.uint32), compression="zlib")
    with (folder / "objects.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return int(labels.max())


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


def compare(path: Path, model: str, checkpoint: Path, runs: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp())
    spec = read_model_file(resolve_model(model)).spec
    ours = []
    for _ in range(runs + 1):  # the first one chooses the backend and compiles
        out = folder / "ours"
        ours.append(
            seconds(lambda out=out: infer_files([str(path)], model, out, InferOptions(), Device("cpu"), restart=True))
        )
    record = read_json(folder / "ours" / RUN)
    counted: list[int] = []
    theirs = seconds(lambda: counted.append(peer(path, module_of(checkpoint), spec, folder)))
    shutil.rmtree(folder)
    (entry,) = record["files"].values()
    return {
        "speed_up": theirs / statistics.median(ours[1:]),
        "cellengine_s": ours[1:],
        "first_run_s": ours[0],
        "usual_stack_s": theirs,
        "session": record["session"],
        "stages_s": entry["seconds"],
        "objects": [entry["objects"], *counted],
        "shape": entry["shape"],
    }


def repeated(path: Path, shape: tuple[int, ...]) -> Array:
    """The first channel of a volume, mirrored until it fills `shape`."""
    with open_source(path) as source:
        volume = source.read(Region.whole(source.shape))
    volume = volume[0] if volume.ndim == 4 else volume
    pad = [(0, max(0, want - have)) for want, have in zip(shape, volume.shape, strict=True)]
    return np.ascontiguousarray(np.pad(volume, pad, mode="symmetric")[tuple(map(slice, shape))])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--volume-checkpoint", type=Path)
    parser.add_argument("--volume-model", default="cells3d")
    parser.add_argument("--volume", type=Path)
    parser.add_argument("--volume-shape", default="128,1024,1024")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.checkpoint:
            picture = folder / "mosaic.tif"
            tifffile.imwrite(picture, mosaic(arguments.side), tile=(512, 512), compression="zlib")
            figures["picture"] = compare(picture, arguments.model, arguments.checkpoint, arguments.runs)
        if arguments.volume_checkpoint and arguments.volume:
            shape = tuple(map(int, arguments.volume_shape.split(",")))
            stack = folder / "volume.ome.tif"
            tifffile.imwrite(stack, repeated(arguments.volume, shape), ome=True, metadata={"axes": "ZYX"})
            figures["volume"] = compare(stack, arguments.volume_model, arguments.volume_checkpoint, arguments.runs)
    if not figures:
        raise SystemExit("give --checkpoint, or --volume-checkpoint and --volume")
    write_result("end_to_end", "infer, file to files, against PyTorch + MONAI + scipy + scikit-image", figures)


if __name__ == "__main__":
    main()
