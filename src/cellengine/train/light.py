"""Random changes of the image alone: stain, glow, colour, blur, contrast and noise. Each gives back an image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from cellengine.train.chance import Chance
from cellengine.train.settings import AugmentConfig

Array = np.ndarray[Any, Any]
Change = Callable[[Array, Array, Chance], Array]
"""makes a changed image of an image (C, *spatial) float32, which it may overwrite, and the targets (T, *spatial), the
first of which is the foreground; partial functions rather than closures, since samples go to other processes"""

DAB = np.array([0.268, 0.570, 0.776], np.float32)[:, None, None]
"""optical density of diaminobenzidine in red, green and blue"""


def changes_of_light(config: AugmentConfig) -> list[tuple[float, Change]]:
    """Every change that `config` asks for, with its probability, in the order in which they are made."""
    some = config.intensity_probability
    colours = max(config.grey_probability, config.shuffle_channels_probability)
    every: list[tuple[float, Change]] = [
        (config.stain_probability, stain),
        (config.glare_probability, glare),
        (1.0 if colours > 0 else 0.0, partial(recolour, config=config)),
        (config.blur_probability, partial(blur, sigma_px=config.blur_sigma_px)),
        (config.gamma_probability, partial(bend, gamma=config.gamma)),
        (some, partial(scale_channels, reach=config.contrast)),
        (some, partial(shift_channels, reach=config.brightness)),
        (config.multiply_probability, partial(multiply, factor=config.multiply)),
        (config.noise_probability, partial(add_noise, std=config.noise_std)),
    ]
    return [(probability, change) for probability, change in every if probability > 0]


def stain(image: Array, targets: Array, chance: Chance) -> Array:
    """Lay brown immunostain (DAB) over a bright colour picture: smooth patches, thinner over nuclei.

    Pictures of tissue come mostly in violet and pink; without this a network takes every dark stain for nuclei. Light
    falls by Beer and Lambert with the optical densities of DAB (Ruifrok and Johnston 2001). Other pictures are left as
    they are.
    """
    bright = image.shape[0] == 3 and _median(image) > 0.5
    if not bright or np.abs(image[0] - image[2]).mean() <= 0.02:
        return image
    grain, strength, over_nuclei = chance.uniform(8, 40), chance.uniform(0.5, 3.0), chance.random()
    coarse = chance.normal((1, 1, *(int(n / grain) + 3 for n in image.shape[1:])))
    smooth = functional.interpolate(torch.from_numpy(coarse), image.shape[1:], mode="bicubic").numpy()[0]
    fine = chance.normal(image.shape[1:])
    density = np.maximum(smooth + np.float32(0.15) * fine, 0) * np.float32(strength)
    if len(targets):
        density *= 1 - np.float32(over_nuclei) * targets[:1]
    stained = np.maximum(image, 0) * np.exp(-density * DAB)
    found: Array = stained / np.maximum(stained.max((1, 2), keepdims=True), np.float32(0.3))
    return found


def glare(image: Array, targets: Array, chance: Chance) -> Array:
    """Lay a broad glow over a dark picture, as light from out of focus does, and scale back to the usual range.

    Nuclei in the glow keep a fraction of their contrast; without this a network takes them for background. Bright
    pictures are left as they are.
    """
    if _median(image) > 0.4:
        return image
    strength, width = chance.uniform(0.3, 2.5), chance.uniform(0.3, 1.2)
    glow = np.ones((), np.float32)
    for size in image.shape[1:]:
        along = np.exp(-0.5 * ((np.arange(size) / size - chance.uniform(-0.3, 1.3)) / width) ** 2)
        glow = glow[..., None] * along.astype(np.float32)
    glow = np.float32(strength) * (glow - glow.min())
    found: Array = (image + glow) / (1 + glow.max())
    return found


def recolour(image: Array, targets: Array, chance: Chance, *, config: AugmentConfig) -> Array:
    """Replace the channels by their mean, or put them in another order, or neither."""
    grey, shuffled = chance.random(), chance.random()
    if grey < config.grey_probability:
        image[:] = image.mean(0, keepdims=True)
    elif shuffled < config.shuffle_channels_probability:
        return image[chance.permutation(len(image))]
    return image


def blur(image: Array, targets: Array, chance: Chance, *, sigma_px: tuple[float, float]) -> Array:
    """A Gaussian, on each axis of a standard deviation of its own."""
    widths = [chance.uniform(*sigma_px) for _ in image.shape[1:]]
    return ndimage.gaussian_filter(image, (0.0, *widths), mode="mirror")  # type: ignore[no-any-return]


def bend(image: Array, targets: Array, chance: Chance, *, gamma: tuple[float, float]) -> Array:
    """Raise intensities to a power drawn from `gamma`, within their range."""
    low, high = image.min(), image.max()
    if high <= low:
        return image
    power = np.float32(chance.uniform(*gamma))
    found: Array = ((image - low) / (high - low)) ** power * (high - low) + low
    return found


def scale_channels(image: Array, targets: Array, chance: Chance, *, reach: float) -> Array:
    """Multiply each channel by a factor between 1 - `reach` and 1 + `reach`."""
    for channel in image:
        channel *= np.float32(1 + chance.uniform(-reach, reach))
    return image


def shift_channels(image: Array, targets: Array, chance: Chance, *, reach: float) -> Array:
    """Add to each channel a value between -`reach` and `reach`."""
    for channel in image:
        channel += np.float32(chance.uniform(-reach, reach))
    return image


def multiply(image: Array, targets: Array, chance: Chance, *, factor: tuple[float, float]) -> Array:
    """Brighten or darken the whole by one factor."""
    image *= np.float32(chance.uniform(*factor))
    return image


def add_noise(image: Array, targets: Array, chance: Chance, *, std: float) -> Array:
    """Gaussian noise of a standard deviation between 0 and `std`."""
    values = chance.normal(image.shape)
    image += values * np.float32(chance.uniform(0, std))
    return image


def _median(image: Array) -> float:
    """Of every fourth row and column: a median takes longer than all the rest of a change."""
    return float(np.median(image[..., ::4, ::4]))
