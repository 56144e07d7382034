"""Random changes of image and targets together, from MONAI; the same for the same (seed, epoch, sample)."""

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np
import torch
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
from monai.transforms.transform import MapTransform, RandomizableTransform

from cellengine.train.config import AugmentConfig

Array = np.ndarray[Any, Any]

IMAGE, TARGETS = "image", "targets"

DAB = torch.tensor([0.268, 0.570, 0.776])[:, None, None]
"""optical density of diaminobenzidine in red, green and blue"""


class RandGreyd(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """Replace the channels of `image` by their mean, or put them in another order; MONAI has neither."""

    def __init__(self, grey: float, shuffle: float) -> None:
        MapTransform.__init__(self, [IMAGE])
        RandomizableTransform.__init__(self, 1.0)
        self.grey, self.shuffle = grey, shuffle

    def __call__(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Change `image` alone."""
        draw, order = self.R.uniform(size=2), self.R.permutation(data[IMAGE].shape[0])
        image = data[IMAGE]
        if draw[0] < self.grey:
            image = image.mean(0, keepdim=True).expand_as(image)
        elif draw[1] < self.shuffle:
            image = image[torch.as_tensor(order)]
        return {**data, IMAGE: image}


class RandStaind(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """Lay brown immunostain (DAB) over bright colour pictures: smooth patches, thinner over nuclei; MONAI has it not.

    Pictures of tissue come mostly in violet and pink; without this a network takes every dark stain for nuclei. Light
    falls by Beer and Lambert with the optical densities of DAB (Ruifrok and Johnston 2001). The first target is the
    foreground.
    """

    def __init__(self, prob: float) -> None:
        MapTransform.__init__(self, [IMAGE])
        RandomizableTransform.__init__(self, prob)

    def __call__(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Change `image` alone, where `targets` say that there are no nuclei."""
        self.randomize(None)
        image = torch.as_tensor(data[IMAGE])
        grain, strength, over_nuclei = self.R.uniform([8, 0.5, 0.0], [40, 3.0, 1.0]).tolist()
        noise = self.R.standard_normal((1, 1, *(int(n / grain) + 3 for n in image.shape[1:])))
        fine = self.R.standard_normal(image.shape[1:])
        is_bright_colour = image.shape[0] == 3 and image.median() > 0.5 and (image[0] - image[2]).abs().mean() > 0.02
        if not self._do_transform or not is_bright_colour:
            return data
        smooth = torch.nn.functional.interpolate(
            torch.from_numpy(noise.astype(np.float32)), image.shape[1:], mode="bicubic", align_corners=False
        )[0]
        density = (smooth + 0.15 * torch.from_numpy(fine.astype(np.float32))).clamp_min(0) * strength
        density = density * (1 - over_nuclei * torch.as_tensor(data[TARGETS])[:1])
        stained = image.clamp_min(0) * torch.exp(-density * DAB)
        return {**data, IMAGE: stained / stained.amax((1, 2), keepdim=True).clamp_min(0.3)}


class RandGlared(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """Lay a broad glow over dark pictures, as light from out of focus does, and scale back to the usual range.

    Nuclei in the glow keep a fraction of their contrast; without this a network takes them for background. MONAI's bias
    field multiplies, which keeps the contrast.
    """

    def __init__(self, prob: float) -> None:
        MapTransform.__init__(self, [IMAGE])
        RandomizableTransform.__init__(self, prob)

    def __call__(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Change `image` alone."""
        self.randomize(None)
        image = torch.as_tensor(data[IMAGE])
        strength, width = self.R.uniform([0.3, 0.3], [2.5, 1.2]).tolist()
        centre = self.R.uniform(-0.3, 1.3, image.ndim - 1).tolist()
        if not self._do_transform or image.median() > 0.4:
            return data
        glow = torch.ones(())
        for axis, middle in enumerate(centre):
            size = image.shape[axis + 1]
            along = torch.exp(-0.5 * ((torch.arange(size) / size - middle) / width) ** 2)
            glow = glow[..., None] * along
        glow = strength * (glow - glow.min())
        return {**data, IMAGE: (image + glow) / (1 + glow.max())}


def build_augmentation(config: AugmentConfig, crop_px: tuple[int, ...]) -> Compose:
    """Augmentation of samples {image: (C, *spatial), targets: (T, *spatial)}, larger than the crop by `margin_px`."""
    dims, both = len(crop_px), [IMAGE, TARGETS]
    zoom = tuple(1 / z - 1 for z in reversed(config.zoom))
    rotate = config.rotate_deg / 180 * pi
    steps: list[Any] = [
        RandAffined(
            both,
            spatial_size=crop_px,
            prob=config.affine_probability,
            rotate_range=rotate if dims == 2 else (rotate, 0.0, 0.0),
            scale_range=(zoom,) * dims,
            mode="bilinear",
            padding_mode="reflection",
        )
    ]
    if config.flips:
        steps += [RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(dims)]
        if crop_px[-1] == crop_px[-2]:
            steps.append(RandRotate90d(both, prob=0.5, spatial_axes=(dims - 2, dims - 1)))
    low, high = config.blur_sigma_px
    steps += [
        RandStaind(config.stain_probability),
        RandGlared(config.glare_probability),
        RandGreyd(config.grey_probability, config.shuffle_channels_probability),
        RandGaussianSmoothd([IMAGE], (low, high), (low, high), (low, high), prob=config.blur_probability),
        RandAdjustContrastd([IMAGE], prob=config.gamma_probability, gamma=config.gamma),
        RandScaleIntensityd([IMAGE], config.contrast, prob=config.intensity_probability, channel_wise=True),
        RandShiftIntensityd([IMAGE], config.brightness, prob=config.intensity_probability, channel_wise=True),
        RandGaussianNoised([IMAGE], prob=config.noise_probability, std=config.noise_std),
    ]
    return Compose(steps)


def margin_px(config: AugmentConfig, crop_px: tuple[int, ...]) -> tuple[int, ...]:
    """Voxels a sample needs beyond the crop on each side, so that zooming out meets real pixels."""
    shrink = max(0.0, 1 / config.zoom[0] - 1) if config.affine_probability > 0 else 0.0
    return tuple(int(np.ceil(n / 2 * shrink)) for n in crop_px)


def augment(transform: Compose, image: Array, targets: Array, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply `transform` with the random stream of `seed`; both inputs float32, (channels, *spatial)."""
    transform.set_random_state(seed=seed)
    changed = transform({IMAGE: torch.from_numpy(image), TARGETS: torch.from_numpy(targets)})
    plain = [torch.as_tensor(changed[key]).as_subclass(torch.Tensor) for key in (IMAGE, TARGETS)]
    return plain[0].contiguous(), plain[1].contiguous()
