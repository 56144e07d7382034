"""How close does the training loop come to the bare network, and how much memory does each preset take?

Each preset in a process of its own: the loop's second epoch on synthetic pictures, with loader, augmentation, averaged
weights and all, against forward, backward and step of the same network on one batch of the same shape.

python benchmarks/training.py [--steps 40] [--runs 3] [PRESET ...]
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
import torch

from _timing import seconds, write_result
from cellengine.train.config import TrainConfig, load_config, presets
from cellengine.train.loop import train
from cellengine.train.optimizer import build_optimizer
from cellengine.train.place import Place
from cellengine.train.recipes import RECIPES
from cellengine.train.state import new_state


def draw(shape: tuple[int, ...], cells: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture of bright balls and its labels."""
    labels = np.zeros(shape, np.uint16)
    grid = np.indices(shape)
    for label in range(1, cells + 1):
        middle = [random.integers(n) for n in shape]
        near = sum((axis - m) ** 2 for axis, m in zip(grid, middle, strict=True)) < random.integers(16, 100)
        labels[near & (labels == 0)] = label
    image = 40 + 120 * (labels > 0) + random.normal(0, 10, shape)
    return image.clip(0, 255).astype(np.uint8), labels


def write_data(folder: Path, config: TrainConfig) -> dict[str, str]:
    """Synthetic data that the preset can read, and the settings that name it."""
    random = np.random.default_rng(0)
    if config.task == "classification":
        images = random.integers(0, 255, (400, *config.data.crop_px)).astype(np.uint8)
        split = np.where(np.arange(400) % 10 == 0, "val", "train")
        np.savez(folder / "crops.npz", image=images, label=random.integers(0, 2, 400), split=split)
        return {"data.path": repr(str(folder / "crops.npz")), "data.label": "label"}
    shape = (256, 256) if config.model.dims == 2 else tuple(max(48, c) for c in config.data.crop_px)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for i in range(6):
        image, labels = draw(shape, 40, random)
        mask = labels if config.task != "semantic" else (labels > 0).astype(np.uint8)
        axes = {"metadata": {"axes": "ZYX"[3 - len(shape) :]}}
        tifffile.imwrite(folder / "images" / f"{i}.tif", image, **axes)
        tifffile.imwrite(folder / "labels" / f"{i}.tif", mask, **axes)
    return {"data.path": repr(str(folder)), "data.where": "{}", "data.axes": "''", "data.balance_by": "''"}


def measure(preset: str, steps: int) -> dict[str, float]:
    """Samples a second of the loop and of the bare network, and the most memory that the process held."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plain = load_config(preset)
        epoch = {"epochs": 2, "validate_every": 2, "preview_every": 2, "data.samples_per_epoch": steps * plain.batch}
        settings = {**epoch, **write_data(folder, plain)}
        config = load_config(preset, [f"{key}={value}" for key, value in settings.items()])
        train(config, folder / "run", device="cpu")
        with (folder / "run" / "metrics.csv").open() as file:
            last = list(csv.DictReader(file))[-1]
        bare = bare_seconds(config, steps)
    samples = steps * config.batch
    model = new_state(config, Place(torch.device("cpu"))).model
    return {
        "loop_samples_per_s": samples / float(last["seconds"]),
        "bare_samples_per_s": samples / bare,
        "share": bare / float(last["seconds"]),
        "ram_peak_mb": float(last["ram_peak_mb"]),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def bare_seconds(config: TrainConfig, steps: int) -> float:
    """Time of forward, backward and step on one batch, again and again."""
    recipe = RECIPES[config.task](config)
    place = Place(torch.device("cpu"))
    model = new_state(config, place).model.train()
    optimizer = build_optimizer(model, config.optimizer)
    samples = [recipe.samples[i] for i in range(config.batch)]
    batch = place.bring(tuple(torch.stack(parts) for parts in zip(*samples, strict=True)))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            terms = recipe.losses(model, batch)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    step()
    return seconds(lambda: [step() for _ in range(steps)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("presets", nargs="*", default=[n for n in presets() if "maskrcnn" not in n])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", action="store_true", help="measure here and print JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.presets[0], given.steps)))
        return
    found = {}
    for preset in given.presets:
        runs = []
        for _ in range(given.runs):
            command = [sys.executable, __file__, preset, "--one", "--steps", str(given.steps)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        found[preset] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        print(preset, found[preset], flush=True)
    write_result("training", "Samples a second of the training loop beside the bare network", {"presets": found})


if __name__ == "__main__":
    main()
