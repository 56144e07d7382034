"""Which pictures a source holds for a model, and what is asked for rather than guessed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cellengine.engine.options import InferOptions
from cellengine.engine.scene import scenes
from cellengine.errors import InputError, UsageError
from cellengine.geometry import Region
from cellengine.io import MemorySource
from cellengine.spec import ModelSpec

STACK = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.uint16).reshape(2, 3, 4, 5, 6)
COLOURS = {"channels": ("red", "green", "blue")}


def test_every_plane_of_a_series_is_a_picture(small_spec: Callable[..., ModelSpec]) -> None:
    source = MemorySource(STACK, "TCZYX")
    found = scenes(source, small_spec(), InferOptions(channel=("2",)))
    assert [s.at for s in found] == [{"t": t, "z": z} for t in range(2) for z in range(4)]
    assert found[5].channels == (2, 2, 2)
    region = Region((1, 2), (4, 6))
    np.testing.assert_array_equal(found[5].read(region), np.stack([STACK[1, 2, 1, 1:4, 2:6]] * 3))
    np.testing.assert_array_equal(found[5].read_all_channels(region), STACK[1, :, 1, 1:4, 2:6])


def test_a_volume_model_takes_volumes(small_spec: Callable[..., ModelSpec]) -> None:
    spec = small_spec(
        axes="ZYX", tile=(8, 8, 8), divisor=(4, 4, 4), receptive_field=(2, 2, 2), halo=(2, 2, 2), channels=("a",)
    )
    found = scenes(MemorySource(STACK, "TCZYX"), spec, InferOptions(channel=("0",), timepoint=1))
    assert [s.at for s in found] == [{"t": 1}]
    assert found[0].shape == (4, 5, 6)
    np.testing.assert_array_equal(found[0].read(Region.whole((4, 5, 6))), STACK[1, 0][None])


def test_channels_follow_the_order_asked_for(small_spec: Callable[..., ModelSpec]) -> None:
    source = MemorySource(STACK[0, :, 0], "CYX", channel_names=("dapi", "gfp", "rfp"))
    found = scenes(source, small_spec(), InferOptions(channel=("rfp", "0", "gfp")))[0]
    np.testing.assert_array_equal(found.read(Region.whole((5, 6))), STACK[0, [2, 0, 1], 0])


def test_a_colour_picture_and_a_grey_one_feed_a_colour_model(small_spec: Callable[..., ModelSpec]) -> None:
    colour = MemorySource(np.zeros((5, 6, 3), np.uint8))
    assert scenes(colour, small_spec(**COLOURS), InferOptions())[0].channels == (0, 1, 2)
    grey = MemorySource(np.zeros((5, 6), np.uint8))
    assert scenes(grey, small_spec(**COLOURS), InferOptions())[0].channels == (0, 0, 0)


def test_what_is_unclear_is_asked_for(small_spec: Callable[..., ModelSpec]) -> None:
    three = MemorySource(STACK[0, :, 0], "CYX", channel_names=("dapi", "gfp", "rfp"))
    with pytest.raises(InputError, match=r"found 3 channels \(0: dapi, 1: gfp, 2: rfp\).*--channel"):
        scenes(three, small_spec(**COLOURS), InferOptions())
    colour = MemorySource(np.zeros((5, 6, 3), np.uint8))
    with pytest.raises(InputError, match=r"found a colour picture, the model small takes 1 .*--channel"):
        scenes(colour, small_spec(channels=("dna",)), InferOptions())
    with pytest.raises(UsageError, match="no channel 'cy5'; it has 0: dapi"):
        scenes(three, small_spec(), InferOptions(channel=("cy5",)))
    with pytest.raises(UsageError, match="--channel names 2 channels, the model small takes 3"):
        scenes(three, small_spec(), InferOptions(channel=("0", "1")))
    with pytest.raises(UsageError, match="--timepoint 2, but it has 0 to 1"):
        scenes(MemorySource(STACK[:, 0, 0], "TYX"), small_spec(), InferOptions(timepoint=2))
    spec = small_spec(axes="ZYX", tile=(8, 8, 8), divisor=(4, 4, 4), receptive_field=(2, 2, 2), halo=(2, 2, 2))
    with pytest.raises(InputError, match=r"found the axes YX .*works in ZYX.*--axes"):
        scenes(MemorySource(np.zeros((5, 6))), spec, InferOptions())


def test_values_that_are_no_numbers_can_be_read_as_zero(small_spec: Callable[..., ModelSpec]) -> None:
    from dataclasses import replace

    image = np.array([[1.0, np.nan], [np.inf, 4.0]], np.float32)
    scene = replace(scenes(MemorySource(image), small_spec(), InferOptions())[0], fill=True)
    np.testing.assert_array_equal(scene.read(Region.whole((2, 2)))[0], [[1, 0], [0, 4]])
