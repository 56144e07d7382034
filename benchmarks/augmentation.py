"""How long does a sample take beside MONAI's transforms, with the same changes and the same probabilities?

One thread. MONAI gets a window that is large enough for every turn and zoom, as float32, and resamples it once for the
affine map; a dozen transforms follow. Ours reads the float16 picture through one map.

python benchmarks/augmentation.py [--samples 200] [--runs 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import pi
from typing import Any

import numpy as np
import torch
from monai.data.meta_obj import set_track_meta
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
)

from _timing import paired, ratio, write_result
from cellengine.io.crops import window
from cellengine.train.augment import Augmentation
from cellengine.train.augmentations import AUGMENTATIONS
from cellengine.train.chance import Chance
from cellengine.train.moves import margin_px
from cellengine.train.settings import AugmentConfig

Array = np.ndarray[Any, Any]
CASES = (("nuclei", 3, (256, 256)), ("crops", 1, (48, 48)), ("volumes", 1, (32, 96, 96)))


def peer(config: AugmentConfig, crop_px: tuple[int, ...]) -> Compose:
    """MONAI's transforms for what `config` says; grey pictures are not among them, MONAI has no such transform."""
    set_track_meta(False)
    dims, both = len(crop_px), ["image", "targets"]
    turn = config.rotate_deg / 180 * pi
    zoom = (tuple(1 / z - 1 for z in reversed(config.zoom)),) * dims
    shift = tuple(config.shift * n for n in crop_px) if config.shift else None
    low, high = config.blur_sigma_px
    some = config.intensity_probability
    return Compose(
        [
            RandAffined(
                both,
                spatial_size=crop_px,
                prob=config.affine_probability,
                rotate_range=turn if dims == 2 else (turn, 0.0, 0.0),
                translate_range=shift,
                scale_range=zoom,
                mode="bilinear",
                padding_mode="reflection",
            ),
            *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(dims)),
            RandRotate90d(both, prob=config.quarter_turns, spatial_axes=(dims - 2, dims - 1)),
            RandGaussianSmoothd(["image"], (low, high), (low, high), (low, high), prob=config.blur_probability),
            RandAdjustContrastd(["image"], prob=config.gamma_probability, gamma=config.gamma),
            RandScaleIntensityd(["image"], config.contrast, prob=some, channel_wise=True),
            RandShiftIntensityd(["image"], config.brightness, prob=some, channel_wise=True),
            RandGaussianNoised(["image"], prob=config.noise_probability, std=config.noise_std),
        ]
    )


def samplers(name: str, channels: int, crop_px: tuple[int, ...], samples: int) -> dict[str, Callable[[], object]]:
    """Both ways to draw so many samples of one picture, with three target maps."""
    random = np.random.default_rng(0)
    shape = tuple(3 * n for n in crop_px)
    image = random.normal(0.5, 0.2, (channels, *shape)).astype(np.float16)
    maps = [image[0] > 0.5, image[0], image[0]]
    config = AUGMENTATIONS[name]
    ours, theirs = Augmentation(config, crop_px), peer(config, crop_px)
    margin = margin_px(config, crop_px)
    read_px = tuple(c + 2 * m for c, m in zip(crop_px, margin, strict=True))
    centre = tuple(n // 2 for n in shape)

    def cellengine() -> None:
        for number in range(samples):
            ours(image, maps, centre, Chance(1, number))

    def monai() -> None:
        for number in range(samples):
            theirs.set_random_state(seed=number)
            cut = window(image, centre, read_px).astype(np.float32)
            targets = np.concatenate([window(m[None], centre, read_px).astype(np.float32) for m in maps])
            theirs({"image": torch.from_numpy(cut), "targets": torch.from_numpy(targets)})

    return {"monai": monai, "cellengine": cellengine}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, channels, crop_px in CASES:
        count = max(10, given.samples * 48 * 48 // int(np.prod(crop_px)) * 4)
        times = paired(samplers(name, channels, crop_px, count), given.runs)
        milliseconds = {way: 1000 * times[way]["median_s"] / count for way in times}
        row = {"set": name, "crop_px": crop_px, "channels": channels, "speed_up": ratio(times, "monai", "cellengine")}
        rows.append(row | {"ms_a_sample": milliseconds, "times": times})
        print({k: v for k, v in rows[-1].items() if k != "times"}, flush=True)
    write_result("augmentation", "Milliseconds a sample beside MONAI, one thread", {"rows": rows})


if __name__ == "__main__":
    main()
