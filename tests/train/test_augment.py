"""What the augmentations of our own do to pictures, and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cellengine.train.augment import (
    IMAGE,
    TARGETS,
    RandGlared,
    RandStaind,
    augment,
    build_augmentation,
    margin_px,
)
from cellengine.train.augmentations import AUGMENTATIONS
from cellengine.train.settings import AugmentConfig


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


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
@pytest.mark.parametrize("crop_px", [(16, 24), (6, 16, 16)])
def test_every_named_set_changes_image_and_targets_alike(name: str, crop_px: tuple[int, ...]) -> None:
    """Where the image is its own target, moved voxels move in both: the foreground stays where the image is bright."""
    config = AUGMENTATIONS[name]
    margin = margin_px(config, crop_px)
    shape = tuple(c + 2 * m for c, m in zip(crop_px, margin, strict=True))
    image = np.zeros((1, *shape), np.float32)
    image[(0, *(slice(n // 4, n // 2) for n in shape))] = 1
    transform = build_augmentation(config, crop_px)
    moved = []
    for seed in range(6):
        found, targets = augment(transform, image, image.copy(), seed)
        again, _ = augment(transform, image, image.copy(), seed)
        assert found.shape == targets.shape == (1, *crop_px)
        assert torch.equal(found, again)
        inside, outside = found[targets > 0.9], found[targets < 0.1]
        if len(inside) > 8 and len(outside) > 8:
            assert inside.mean() > outside.mean()
        moved.append(targets.numpy().tobytes())
    assert (len(set(moved)) == 1) == (name == "none")


def test_class_ids_stay_whole() -> None:
    config = AugmentConfig(elastic_px=3.0, elastic_probability=1.0)
    ids = np.random.default_rng(0).integers(0, 4, (1, 48, 48)).astype(np.float32)
    transform = build_augmentation(config, (32, 32), "nearest")
    for seed in range(5):
        _, found = augment(transform, ids, ids, seed)
        assert set(np.unique(found.numpy())) <= {0.0, 1.0, 2.0, 3.0}


def test_at_most_two_of_report_a() -> None:
    """Mirrored, turned, brightened and blurred at once would be four."""
    image = np.zeros((1, 16, 16), np.float32)
    image[0, 2:5, 3:9] = 0.5
    transform = build_augmentation(AUGMENTATIONS["maskrcnn"], (16, 16))
    untouched = sum(
        torch.equal(augment(transform, image, image, seed)[0], torch.from_numpy(image)) for seed in range(60)
    )
    assert 5 < untouched < 50
