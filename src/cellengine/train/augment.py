"""Random changes of image and targets together, from MONAI; the same for the same (seed, epoch, sample)."""

from __future__ import annotations

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
    SomeOf,
)
from monai.transforms.transform import MapTransform, RandomizableTransform

from cellengine.train.settings import AugmentConfig

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


class RandDeformd(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """Smooth random deformation of image and targets, alike in 2D and 3D; MONAI's two have different settings.

    Shifts are drawn on a grid of `grain_px` and interpolated in between (Simard et al. 2003).
    """

    def __init__(self, prob: float, size_px: float, grain_px: float, mode: str) -> None:
        MapTransform.__init__(self, [IMAGE, TARGETS])
        RandomizableTransform.__init__(self, prob)
        self.size_px, self.grain_px, self.mode = size_px, grain_px, mode

    def __call__(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Move the voxels of both."""
        self.randomize(None)
        image = torch.as_tensor(data[IMAGE])
        shape = image.shape[1:]
        coarse = self.R.standard_normal((1, len(shape), *(int(n / self.grain_px) + 2 for n in shape)))
        if not self._do_transform:
            return data
        linear = "bilinear" if len(shape) == 2 else "trilinear"
        shifts = torch.nn.functional.interpolate(
            torch.from_numpy(coarse.astype(np.float32)), shape, mode=linear, align_corners=True
        )[0]
        lines = [torch.linspace(-1, 1, n) for n in shape]
        places = torch.stack(torch.meshgrid(*lines, indexing="ij"))
        half = torch.tensor([max(n - 1, 1) / 2 for n in shape]).reshape(-1, *[1] * len(shape))
        grid = (places + self.size_px * shifts / half).flip(0).movedim(0, -1)[None]
        moved = dict(data)
        for name, mode in ((IMAGE, "bilinear"), (TARGETS, self.mode)):
            values = torch.as_tensor(data[name]).as_subclass(torch.Tensor)[None]
            moved[name] = torch.nn.functional.grid_sample(
                values, grid, mode=mode, padding_mode="reflection", align_corners=True
            )[0]
        return moved


def build_augmentation(config: AugmentConfig, crop_px: tuple[int, ...], targets: str = "bilinear") -> Compose:
    """Augmentation of samples {image: (C, *spatial), targets: (T, *spatial)}, larger than the crop by `margin_px`.

    `targets` says how target maps are interpolated: "bilinear", or "nearest" for class ids.
    """
    set_track_meta(False)  # a record of every change, to undo it later, takes half the time of a sample
    dims, both = len(crop_px), [IMAGE, TARGETS]
    zoom = tuple(1 / z - 1 for z in reversed(config.zoom))
    rotate = config.rotate_deg / 180 * pi
    crop: list[Any] = [
        RandAffined(
            both,
            spatial_size=crop_px,
            prob=config.affine_probability,
            rotate_range=rotate if dims == 2 else (rotate, 0.0, 0.0),
            shear_range=(config.shear,) * (2 if dims == 2 else 6) if config.shear else None,
            translate_range=tuple(config.shift * n for n in crop_px) if config.shift else None,
            scale_range=(zoom,) * dims,
            mode="bilinear" if targets == "bilinear" else ("bilinear", targets),
            padding_mode="reflection",
        )
    ]
    if config.elastic_px and config.elastic_probability:
        crop.append(RandDeformd(config.elastic_probability, config.elastic_px, config.elastic_grain_px, targets))
    steps: list[Any] = []
    if config.flips:
        steps += [RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(dims)]
        if crop_px[-1] == crop_px[-2] and config.quarter_turns:
            steps.append(RandRotate90d(both, prob=config.quarter_turns, spatial_axes=(dims - 2, dims - 1)))
    elif config.flip_last:
        steps.append(RandFlipd(both, prob=0.5, spatial_axis=dims - 1))
    steps += [step for probability, step in _of_intensity(config) if probability > 0]
    if config.at_most:
        return Compose([*crop, SomeOf(steps, num_transforms=(0, config.at_most))])
    return Compose([*crop, *steps])


def _of_intensity(config: AugmentConfig) -> list[tuple[float, Any]]:
    """Changes of the image alone, each with its probability."""
    low, high = config.blur_sigma_px
    darken, brighten = config.multiply
    some = config.intensity_probability
    return [
        (config.stain_probability, RandStaind(config.stain_probability)),
        (config.glare_probability, RandGlared(config.glare_probability)),
        (
            max(config.grey_probability, config.shuffle_channels_probability),
            RandGreyd(config.grey_probability, config.shuffle_channels_probability),
        ),
        (
            config.blur_probability,
            RandGaussianSmoothd([IMAGE], (low, high), (low, high), (low, high), prob=config.blur_probability),
        ),
        (
            config.gamma_probability,
            RandAdjustContrastd([IMAGE], prob=config.gamma_probability, gamma=config.gamma),
        ),
        (some, RandScaleIntensityd([IMAGE], config.contrast, prob=some, channel_wise=True)),
        (some, RandShiftIntensityd([IMAGE], config.brightness, prob=some, channel_wise=True)),
        (
            config.multiply_probability,
            RandScaleIntensityd([IMAGE], (darken - 1, brighten - 1), prob=config.multiply_probability),
        ),
        (
            config.noise_probability,
            RandGaussianNoised([IMAGE], prob=config.noise_probability, std=config.noise_std),
        ),
    ]


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
