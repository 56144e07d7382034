"""Configuration: presets load, typos are named, overrides reach their section."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from cellengine.errors import InputError, UsageError
from cellengine.train.config import TrainConfig, load_config, presets


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_loads_and_survives_a_checkpoint(name: str) -> None:
    config = load_config(name)
    assert TrainConfig.from_json(config.to_json()) == config


def test_overrides_reach_their_section() -> None:
    config = load_config(
        "nuclei-unet", ["epochs=3", "data.path=a/list.csv", "model.widths=[8, 16]", "loss.foreground=dice"]
    )
    assert (config.epochs, config.data.path, config.model.widths) == (3, "a/list.csv", (8, 16))
    assert config.loss.foreground == "dice"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=1", r"Unknown setting optimizer\.lr; known here: .*rate"),
        ("epochs=many", "epochs: found 'many', expected a whole number"),
        ("loss.foreground=hinge", "found 'hinge', expected one of 'bce', 'dice', 'bce\\+dice', 'focal'"),
        ("data.crop_px=[100, 100]", "not a multiple of"),
        ('channels=["grey"]', "1 channel names for a model of 3 channels"),
        ("augment.zoom=[1.2, 0.8]", r"augment: zoom is \[1.2, 0.8\], expected a positive number and one that is not"),
        ("augment.shear=-0.1", "augment: shear is -0.1, expected 0 or more"),
        ("data.where.split=[]", "data: where.split is an empty list"),
        ("augment.set=nuclie", "augment.set: found 'nuclie', expected one of none, nuclei"),
        ("accumulate=3", "a batch of 8 cannot be accumulated in 3 equal parts"),
        ("validate_every=0", "validate_every is 0, expected at least 1"),
        ("data.samples_per_epoch=4", r"data\.samples_per_epoch is 4, less than a batch: 8"),
        ('model.heads=["foreground"]', "distance_watershed needs the head distance"),
    ],
)
def test_what_does_not_fit_is_named(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config("nuclei-unet", [override])


def test_an_unknown_preset_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"No preset 'nuclie'; known: .*nuclei-unet"):
        load_config("nuclie")
    with pytest.raises(UsageError, match="does not exist"):
        load_config(str(tmp_path / "mine.toml"))
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(InputError, match=r"bad\.toml is not TOML"):
        load_config(str(tmp_path / "bad.toml"))
    with pytest.raises(UsageError, match=r"expected section\.key=value"):
        load_config("nuclei-unet", ["epochs"])
