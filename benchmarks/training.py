"""How close does the training loop come to the bare network, and how much memory does each preset take?

Each preset in a process of its own: steps of the loop on synthetic pictures, with samples, augmentation, averaged
weights and all, against forward, backward and step of the same network on one batch of the same shape.

Presets for GPUs are left out; figures of presets that are not asked for stay.
python benchmarks/training.py [--seconds 8] [--runs 3] [PRESET ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
import torch

from _timing import RESULTS, paired, ratio, seconds, write_result
from cellengine.train.config import TrainConfig, load_config, presets
from cellengine.train.feed import STEPS_AHEAD, WORTH_THREADS_S, feed
from cellengine.train.loop import Losses, _train_step
from cellengine.train.optimizer import begin_phase, build_optimizer
from cellengine.train.place import Place, keep_freed_memory
from cellengine.train.recipe import Recipe
from cellengine.train.recipes import RECIPES
from cellengine.train.state import new_state

PLACE = Place(torch.device("cpu"))
LEAST_STEPS = 6
SLOW_STEP_S = 1.0
FOR_GPUS = ("-full", "maskrcnn-128", "maskrcnn-512")


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


def write_data(folder: Path, config: TrainConfig) -> dict[str, str | int]:
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


def measure(preset: str, seconds_each: float) -> dict[str, float | str]:
    """Samples a second of the loop and of the bare network, and the most memory that the process held.

    Steps of both in turn, so that a machine that drifts drifts for both; samples are made when a step asks for them, as
    they are on CPUs.
    """
    keep_freed_memory()  # as the command does
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = write_data(folder, load_config(preset))
        data |= {"data.workers": 0, "epochs": 1000}  # short presets are over before they are measured
        config = load_config(preset, [f"{key}={value}" for key, value in data.items()])
        config = replace(config, precision=PLACE.best_precision()) if config.precision == "auto" else config
        recipe = RECIPES[config.task](config)
        state, batches = new_state(config, PLACE), feed(recipe.samples, 0, config, PLACE)
        begin_phase(state.model, norm_rests=config.norm_rests)
        losses, bare = Losses(state.model, recipe), bare_step(config, recipe)

        def step() -> None:
            _train_step(state, losses, [next(batches) for _ in range(config.accumulate)], config, PLACE)

        first = paired({"loop": step, "bare": bare}, 1, 3)["bare"]["median_s"]
        numbers = range(config.batch)
        each_s = seconds(lambda: recipe.samples.batch(numbers)) / config.batch
        # samples that are made for several steps at a time count in full
        several = STEPS_AHEAD if each_s < 1.5 * WORTH_THREADS_S else 1
        count = round(min(200, max(LEAST_STEPS / several, 3, seconds_each / first / several)))
        times = paired({"loop": lambda: repeat(step, several), "bare": lambda: repeat(bare, several)}, count)
        batches.close()
    return {
        "precision": config.precision,
        "steps": count * several,
        "loop_samples_per_s": several * config.batch / times["loop"]["median_s"],
        "bare_samples_per_s": several * config.batch / times["bare"]["median_s"],
        "share": ratio(times, "bare", "loop"),
        "ram_peak_mb": PLACE.memory_mb()["ram_peak_mb"],
        "parameters": sum(p.numel() for p in state.model.parameters()),
    }


def repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def bare_step(config: TrainConfig, recipe: Recipe) -> Callable[[], None]:
    """Forward, backward and step on one batch of tensors at hand."""
    model = new_state(config, PLACE).model
    begin_phase(model, norm_rests=config.norm_rests)
    optimizer = build_optimizer(model, config.optimizer)
    samples = [recipe.samples[i] for i in range(config.batch)]
    batch = PLACE.bring(tuple(torch.stack(parts) for parts in zip(*samples, strict=True)))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            terms = recipe.losses(model, batch)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("presets", nargs="*", default=[n for n in presets() if not n.endswith(FOR_GPUS)])
    parser.add_argument("--seconds", type=float, default=8, help="about so long an epoch")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", action="store_true", help="measure here and print JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.presets[0], given.seconds)))
        return
    earlier = RESULTS / "training.json"
    found = json.loads(earlier.read_text())["presets"] if earlier.exists() else {}
    for preset in given.presets:
        runs = []
        for _ in range(given.runs):
            if runs and load_config(preset).batch / runs[-1]["bare_samples_per_s"] > SLOW_STEP_S:
                break  # the noise is small beside such a step
            command = [sys.executable, __file__, preset, "--one", "--seconds", str(given.seconds)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        numbers = [name for name, value in runs[0].items() if isinstance(value, (int, float))]
        medians = {name: statistics.median(run[name] for run in runs) for name in numbers}
        shares = [run["share"] for run in runs]
        found[preset] = {"precision": runs[0]["precision"], **medians, "shares": shares}
        write_result("training", "Samples a second of the training loop beside the bare network", {"presets": found})


if __name__ == "__main__":
    main()
