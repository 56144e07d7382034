"""Losses and pixel weights against the formulas, written out slowly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch")

from cellengine.train.losses import bce, binary_focal, class_map_loss, crop_loss, dice, head_losses, mse, smooth_l1
from cellengine.train.settings import LossConfig
from cellengine.train.weights import balanced_weights, falk_weights, pixel_weights


def case(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(2, classes, 4, 5)
    truth = torch.randint(classes, (2, 4, 5))
    weight = torch.ones(2, 4, 5)
    weight[0, 0] = 0
    return logits, truth, weight


def slow_cross_entropy(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, of: tuple[float, ...]) -> float:
    total = parts = 0.0
    for n, y, x in np.ndindex(*truth.shape):
        c, w = int(truth[n, y, x]), float(weight[n, y, x])
        p = np.exp(logits[n, :, y, x].numpy().astype(float))
        total += -w * of[c] * np.log(p[c] / p.sum())
        parts += w * of[c]
    return total / parts


@pytest.mark.parametrize("of", [(1.0, 1.0, 1.0), (0.2, 1.0, 3.0)])
def test_cross_entropy_weighs_classes_and_leaves_out_what_is_unknown(of: tuple[float, ...]) -> None:
    logits, truth, weight = case()
    found = class_map_loss(logits, truth, weight, LossConfig(class_weights=of))
    assert float(found) == pytest.approx(slow_cross_entropy(logits, truth, weight, of), rel=1e-5)
    changed = logits.clone()
    changed[0, :, 0] += 5 * torch.randn(3, 5)
    assert float(class_map_loss(changed, truth, weight, LossConfig(class_weights=of))) == pytest.approx(float(found))


def test_focal_without_focus_is_cross_entropy_and_counts_the_easy_less() -> None:
    logits, truth, weight = case()
    plain = class_map_loss(logits, truth, weight, LossConfig())
    unfocused = class_map_loss(logits, truth, weight, LossConfig(classes="focal", focal_gamma=0.0))
    assert float(plain) == pytest.approx(float(unfocused))
    assert float(class_map_loss(logits, truth, weight, LossConfig(classes="focal"))) < float(plain)
    target = (truth[:, None] > 0).float()
    assert float(binary_focal(0.0)(logits[:, :1], target, weight[:, None])) == pytest.approx(
        float(bce(logits[:, :1], target, weight[:, None]))
    )


def test_dice_of_classes_is_zero_for_the_truth_and_near_one_for_its_opposite() -> None:
    _, truth, weight = case(2)
    right = 50.0 * (torch.nn.functional.one_hot(truth, 2).movedim(-1, 1).float() - 0.5)
    config = LossConfig(classes="dice")
    assert float(class_map_loss(right, truth, weight, config)) == pytest.approx(0.0, abs=1e-5)
    assert float(class_map_loss(-right, truth, weight, config)) > 0.85
    both = class_map_loss(right, truth, weight, LossConfig(classes="cross_entropy+dice"))
    assert float(both) == pytest.approx(0.0, abs=1e-5)


def test_crops_focal_and_plain() -> None:
    logits, truth = torch.randn(6, 3), torch.arange(6) % 3
    plain = crop_loss(logits, truth, LossConfig())
    assert float(plain) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, truth)))
    assert float(crop_loss(logits, truth, LossConfig(classes="focal", focal_gamma=0.0))) == pytest.approx(float(plain))
    assert float(crop_loss(logits, truth, LossConfig(classes="focal"))) < float(plain)


def map_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, soft targets and weights of two pictures, some of which count for nothing."""
    torch.manual_seed(1)
    weight = torch.rand(2, 1, 5, 6) * 3
    weight[0, 0, 2:4] = 0
    return 3 * torch.randn(2, 1, 5, 6), torch.rand(2, 1, 5, 6), weight


def plain(*tensors: torch.Tensor) -> tuple[np.ndarray, ...]:
    return tuple(t.numpy().astype(np.float64) for t in tensors)


def test_squared_error_follows_its_formula() -> None:
    logits, target, weight = map_case()
    x, t, w = plain(logits, target, weight)
    expected = (w * (1 / (1 + np.exp(-x)) - t) ** 2).sum() / w.sum()
    assert float(mse(logits, target, weight)) == pytest.approx(expected, rel=1e-5)


def test_smooth_l1_is_square_near_and_straight_far() -> None:
    logits, target, weight = map_case()
    x, t, w = plain(logits, target, weight)
    error, beta = np.abs(1 / (1 + np.exp(-x)) - t), 0.1
    assert 0 < (error < beta).sum() < error.size  # both sides of the formula are met
    slow = np.where(error < beta, error**2 / (2 * beta), error - beta / 2)
    assert float(smooth_l1(logits, target, weight)) == pytest.approx((w * slow).sum() / w.sum(), rel=1e-5)


def test_dice_follows_its_formula_in_every_picture() -> None:
    logits, target, weight = map_case()
    x, t, w = plain(logits, target, weight)
    p = 1 / (1 + np.exp(-x))
    each = [1 - (2 * (w[n] * p[n] * t[n]).sum() + 1) / ((w[n] * (p[n] + t[n])).sum() + 1) for n in range(2)]
    assert float(dice(logits, target, weight)) == pytest.approx(np.mean(each), rel=1e-5)
    empty = torch.zeros_like(target)
    assert float(dice(torch.full_like(logits, -50.0), empty, weight)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("loss", [mse, smooth_l1, dice])
def test_what_weighs_nothing_changes_no_loss_of_a_map(loss: Any) -> None:
    logits, target, weight = map_case()
    changed = torch.where(weight > 0, logits, logits + 4)
    assert not torch.equal(changed, logits)
    assert float(loss(changed, target, weight)) == pytest.approx(float(loss(logits, target, weight)))


def test_every_head_has_its_own_term() -> None:
    logits = {name: torch.randn(2, 1, 4, 4) for name in ("boundary", "foreground")}
    targets = torch.rand(2, 3, 4, 4)
    terms = head_losses(logits, targets, LossConfig(boundary="bce", foreground="dice"))
    assert list(terms) == ["boundary", "foreground"]
    alone = bce(logits["boundary"], targets[:, :1], targets[:, 2:])
    assert float(terms["boundary"]) == pytest.approx(float(alone))


def three_cells() -> np.ndarray:
    labels = np.zeros((24, 40), np.uint32)
    labels[4:12, 4:12], labels[4:12, 14:24], labels[16:22, 6:20] = 1, 2, 3
    return labels


@pytest.mark.parametrize("voxel_size", [(1.0, 1.0), (2.0, 1.0)])
def test_the_map_of_falk_follows_its_formula(voxel_size: tuple[float, float]) -> None:
    """w = w_bal + lambda exp(-(d1 + d2)^2 / 2 s^2), every distance by scipy from every cell."""
    labels = three_cells()
    loss = LossConfig(weights="falk", separation_weight=5.0, separation_sigma_px=3.0, background_sigma_px=4.0)
    distances = np.sort(
        [ndimage.distance_transform_edt(labels != cell, sampling=voxel_size) for cell in (1, 2, 3)], axis=0
    )
    near, second = distances[0], distances[1]
    balance = np.where(
        labels > 0, 1.0, loss.background_weight + (1 - loss.background_weight) * np.exp(-(near**2) / (2 * 4.0**2))
    )
    expected = balance + 5.0 * np.exp(-((near + second) ** 2) / (2 * 3.0**2))
    np.testing.assert_allclose(falk_weights(labels, loss, voxel_size).astype(float), expected, atol=6e-3)


def test_the_map_of_falk_in_volumes_and_without_cells() -> None:
    labels = np.zeros((6, 12, 12), np.uint32)
    labels[1:5, 2:5, 2:10], labels[1:5, 7:10, 2:10] = 1, 2
    weights = pixel_weights(labels, LossConfig(weights="falk", separation_sigma_px=2.0), (2.0, 1.0, 1.0))
    assert weights[3, 5, 5] > 1.5 * weights[3, 0, 5]
    assert (pixel_weights(np.zeros((3, 4), np.uint32), LossConfig(weights="falk"), (1.0, 1.0)) == 1).all()


def test_balanced_cells_and_background_weigh_the_same() -> None:
    labels = three_cells()
    weights = balanced_weights(labels).astype(float)
    assert weights[labels > 0].sum() == pytest.approx(weights[labels == 0].sum(), rel=1e-2)
    assert weights.mean() == pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize("sides", [(400, 400), (30, 120, 120)])
def test_balanced_weights_of_a_speck_are_finite(sides: tuple[int, ...]) -> None:
    """One voxel of so many would weigh more than float16 can say."""
    labels = np.zeros(sides, np.uint32)
    labels[(0,) * len(sides)] = 1
    weights = balanced_weights(labels)
    assert weights.dtype == np.float16
    assert np.isfinite(weights).all()
    assert weights.max() == weights[(0,) * len(sides)] == pytest.approx(50000, rel=1e-3)
    labels[:] = 1
    labels[(0,) * len(sides)] = 0
    assert np.isfinite(balanced_weights(labels)).all()
