"""What the augmentations of our own do to pictures, and what they leave alone."""

from __future__ import annotations

import numpy as np
import torch

from cellengine.train.augment import IMAGE, TARGETS, RandGlared, RandStaind


def picture(background: float, nucleus: float) -> dict[str, torch.Tensor]:
    """A colour picture with one square nucleus, and its foreground."""
    image = torch.full((3, 64, 64), background)
    image[:, 20:30, 20:30] = nucleus
    foreground = torch.zeros((1, 64, 64))
    foreground[:, 20:30, 20:30] = 1
    return {IMAGE: image, TARGETS: foreground}


def test_glare_lowers_contrast_and_keeps_range_and_targets() -> None:
    sample = picture(0.0, 1.0)
    for seed in range(20):
        glare = RandGlared(1.0)
        glare.set_random_state(seed=seed)
        found = glare(sample)
        image = found[IMAGE]
        assert torch.equal(found[TARGETS], sample[TARGETS])
        assert image.min() >= -1e-6
        assert image.max() <= 1 + 1e-6
        contrast = float(image[0, 25, 25] - image[0, 25, 35])
        assert 0.2 < contrast < 1.0
        steps = image[0, :, 60].diff().abs().max()
        assert 0 < steps < 0.06, "a glow is broad"


def test_glare_leaves_bright_pictures_alone() -> None:
    sample = picture(0.9, 0.4)
    glare = RandGlared(1.0)
    glare.set_random_state(seed=3)
    assert torch.equal(glare(sample)[IMAGE], sample[IMAGE])


def test_stain_changes_bright_colour_pictures_only() -> None:
    dark = picture(0.0, 1.0)
    bright = picture(0.95, 0.4)
    bright[IMAGE] = bright[IMAGE] * torch.tensor([0.9, 0.8, 1.0])[:, None, None]
    for sample, changes in ((dark, False), (bright, True)):
        stain = RandStaind(1.0)
        stain.set_random_state(seed=1)
        found = stain(sample)
        assert torch.equal(found[TARGETS], sample[TARGETS])
        assert torch.equal(found[IMAGE], sample[IMAGE]) != changes


def test_augmentation_of_one_seed_is_one_picture() -> None:
    images = []
    for _ in range(2):
        glare = RandGlared(0.5)
        images.append([])
        for seed in range(6):
            glare.set_random_state(seed=seed)
            images[-1].append(glare(picture(0.0, 1.0))[IMAGE].numpy())
    assert all(np.array_equal(a, b) for a, b in zip(*images, strict=True))
    assert len({a.tobytes() for a in images[0]}) > 2
