"""What augmentation does to pictures, and what it leaves alone."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cellengine.train.augment import Augmentation
from cellengine.train.augmentations import AUGMENTATIONS, NONE
from cellengine.train.chance import BLOCK, Chance
from cellengine.train.light import add_noise, bend, blur, changes_of_light, glare, multiply, recolour, stain
from cellengine.train.moves import margin_px
from cellengine.train.settings import AugmentConfig

Array = np.ndarray[Any, Any]


def picture(background: float, nucleus: float) -> tuple[Array, Array]:
    """A colour picture with one square nucleus, and its foreground."""
    image = np.full((3, 64, 64), background, np.float32)
    image[:, 20:30, 20:30] = nucleus
    foreground = np.zeros((1, 64, 64), np.float32)
    foreground[:, 20:30, 20:30] = 1
    return image, foreground


def test_glare_lowers_contrast_and_keeps_range() -> None:
    for seed in range(20):
        image = glare(*picture(0.0, 1.0), Chance(0, seed))
        assert image.dtype == np.float32
        assert image.min() >= -1e-6
        assert image.max() <= 1 + 1e-6
        contrast = float(image[0, 25, 25] - image[0, 25, 35])
        assert 0.2 < contrast < 1.0
        steps = np.abs(np.diff(image[0, :, 60])).max()
        assert 0 < steps < 0.06, "a glow is broad"


def test_glare_leaves_bright_pictures_alone() -> None:
    image, foreground = picture(0.9, 0.4)
    np.testing.assert_array_equal(glare(image.copy(), foreground, Chance(0, 3)), image)


def test_stain_changes_bright_colour_pictures_only() -> None:
    dark, foreground = picture(0.0, 1.0)
    bright = picture(0.95, 0.4)[0] * np.array([0.9, 0.8, 1.0], np.float32)[:, None, None]
    assert not np.array_equal(stain(bright.copy(), foreground[:0], Chance(0, 1)), bright), "crops have no targets"
    for image, changes in ((dark, False), (bright, True)):
        found = stain(image.copy(), foreground, Chance(0, 1))
        assert found.dtype == np.float32
        assert np.array_equal(found, image) != changes


def test_changes_of_light_do_what_they_say() -> None:
    image, foreground = picture(0.2, 0.8)
    chance = Chance(0, 0)
    bent = bend(image.copy(), foreground, chance, gamma=(2.0, 2.0))
    assert bent.min() == pytest.approx(0.2)
    assert bent.max() == pytest.approx(0.8)
    halfway = np.linspace(0, 1, 64 * 64 * 3, dtype=np.float32).reshape(3, 64, 64)
    np.testing.assert_allclose(bend(halfway, foreground, chance, gamma=(2.0, 2.0)), halfway**2, atol=1e-6)
    np.testing.assert_allclose(multiply(image.copy(), foreground, chance, factor=(1.5, 1.5)), 1.5 * image, rtol=1e-6)
    blurred = blur(image.copy(), foreground, chance, sigma_px=(2.0, 2.0))
    assert blurred.sum() == pytest.approx(image.sum(), rel=1e-3)
    assert blurred[0, 25, 19] > 0.22
    noisy = add_noise(image.copy(), foreground, chance, std=0.1) - image
    assert 0 < noisy.std() <= 0.11
    assert abs(noisy.mean()) < 0.01
    coloured = image * np.array([0.2, 0.5, 1.0], np.float32)[:, None, None]
    grey = recolour(coloured.copy(), foreground, chance, config=AugmentConfig(grey_probability=1.0))
    np.testing.assert_allclose(grey, np.broadcast_to(coloured.mean(0), (3, 64, 64)), rtol=1e-6)
    settings = AugmentConfig(grey_probability=0.0, shuffle_channels_probability=1.0)
    mixed = recolour(coloured.copy(), foreground, chance, config=settings)
    assert sorted(mixed.sum((1, 2))) == pytest.approx(sorted(coloured.sum((1, 2))))


def test_a_change_without_probability_is_left_out() -> None:
    assert changes_of_light(NONE) == []
    assert len(changes_of_light(AugmentConfig(stain_probability=0.1))) == 7


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
@pytest.mark.parametrize("crop_px", [(16, 24), (6, 16, 16)])
def test_every_named_set_changes_image_and_targets_alike(name: str, crop_px: tuple[int, ...]) -> None:
    """Where the image is its own target, moved voxels move in both: the foreground stays where the image is bright."""
    shape = tuple(2 * n for n in crop_px)
    image = np.zeros((1, *shape), np.float16)
    image[(0, *(slice(n // 4, n // 2) for n in shape))] = 1
    centre = [n // 2 for n in shape]
    augmentation = pickle.loads(pickle.dumps(Augmentation(AUGMENTATIONS[name], crop_px)))
    moved = []
    for seed in range(6):
        found, targets = augmentation(image, [image[0] > 0], centre, Chance(0, seed))
        again, _ = augmentation(image, [image[0] > 0], centre, Chance(0, seed))
        assert found.dtype == targets.dtype == torch.float32
        assert found.shape == targets.shape == (1, *crop_px)
        assert torch.equal(found, again)
        inside, outside = found[targets > 0.9], found[targets < 0.1]
        if len(inside) > 8 and len(outside) > 8:
            assert inside.mean() > outside.mean()
        moved.append(targets.numpy().tobytes())
    assert (len(set(moved)) == 1) == (name == "none")


@pytest.mark.parametrize("crop_px", [(6, 6), (5, 5), (4, 6, 6), (3, 5, 5)])
def test_mirrored_and_turned_crops_hold_the_same_voxels(crop_px: tuple[int, ...]) -> None:
    """Every orientation of a square comes up, and none is interpolated."""
    random = np.random.default_rng(0)
    shape = tuple(3 * n for n in crop_px)
    image = random.normal(0, 1, (2, *shape)).astype(np.float16)
    centre = [n // 2 for n in shape]
    start = [c - n // 2 for c, n in zip(centre, crop_px, strict=True)]
    plain = image[(slice(None), *(slice(s, s + n) for s, n in zip(start, crop_px, strict=True)))].astype(np.float32)
    expected = set()
    for flips in np.ndindex(*[2] * len(crop_px)):
        flipped = plain[(slice(None), *(slice(None, None, -1 if flip else 1) for flip in flips))]
        expected |= {np.rot90(flipped, turn, (-2, -1)).tobytes() for turn in range(4)}
    augmentation = Augmentation(AugmentConfig(**{**_nothing(), "flips": True, "quarter_turns": 0.5}), crop_px)
    found = {augmentation(image, [], centre, Chance(0, i))[0].numpy().tobytes() for i in range(400)}
    assert found == expected


@pytest.mark.parametrize("name", ["livedead", "crops", "falk"])
def test_many_crops_at_once_are_those_of_a_call_each(name: str) -> None:
    images = np.random.default_rng(0).normal(0, 1, (5, 2, 24, 20)).astype(np.float16)
    augmentation = Augmentation(AUGMENTATIONS[name], (16, 12))
    chosen, numbers = np.array([4, 0, 0, 3, 1, 2] * 3), range(BLOCK - 9, BLOCK + 9)
    many = augmentation.of_crops(images, chosen, np.array([12, 10]), [Chance(1, n) for n in numbers])
    for found, image, number in zip(many, chosen, numbers, strict=True):
        alone, _ = augmentation(images[image], [], (12, 10), Chance(1, number))
        torch.testing.assert_close(found, alone, atol=1e-6, rtol=1e-6)


def test_a_crop_at_the_corner_goes_on_mirrored() -> None:
    image = np.arange(20, dtype=np.float16).reshape(1, 4, 5)
    found, _ = Augmentation(NONE, (6, 6))(image, [], (0, 0), Chance(0, 0))
    np.testing.assert_array_equal(found[0].numpy(), np.pad(image[0], 3, mode="reflect")[0:6, 0:6])


def test_zoom_makes_objects_larger_and_smaller_by_its_range() -> None:
    image = np.zeros((1, 96, 96), np.float16)
    image[0, 38:58, 38:58] = 1
    areas = []
    for zoom in ((2.0, 2.0), (0.5, 0.5)):
        config = AugmentConfig(**{**_nothing(), "affine_probability": 1.0, "rotate_deg": 180.0, "zoom": zoom})
        augmentation = Augmentation(config, (64, 64))
        found = [augmentation(image, [], (48, 48), Chance(0, number))[0].sum() for number in range(16)]
        areas.append(float(np.mean(found)))
    assert areas == pytest.approx([1600, 100], rel=0.05)


def test_class_ids_stay_whole() -> None:
    config = AugmentConfig(elastic_px=3.0, elastic_probability=1.0)
    ids = np.random.default_rng(0).integers(0, 4, (48, 48)).astype(np.uint8)
    augmentation = Augmentation(config, (32, 32), nearest=True)
    for seed in range(5):
        _, found = augmentation(ids[None], [ids], (24, 24), Chance(0, seed))
        assert set(np.unique(found.numpy())) <= {0.0, 1.0, 2.0, 3.0}


def test_at_most_two_of_report_a() -> None:
    """Mirrored, turned, brightened and blurred at once would be four."""
    image = np.zeros((1, 16, 16), np.float16)
    image[0, 2:5, 3:9] = 0.5
    augmentation = Augmentation(AUGMENTATIONS["maskrcnn"], (16, 16))
    untouched = sum(
        np.array_equal(augmentation(image, [], (8, 8), Chance(0, seed))[0].numpy(), image) for seed in range(60)
    )
    assert 5 < untouched < 50


def test_the_margin_is_what_zooming_out_needs() -> None:
    assert margin_px(AugmentConfig(zoom=(0.5, 1.0)), (32, 48)) == (16, 24)
    assert margin_px(NONE, (32, 48)) == (0, 0)


def _nothing() -> dict[str, Any]:
    return {name: getattr(NONE, name) for name in NONE.__dataclass_fields__}
