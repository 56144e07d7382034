"""Kaggle's layout becomes a list for training: masks resolved, defects listed, copies and tiles in one split."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from cellengine.cli import group
from cellengine.errors import InputError, UsageError
from cellengine.io.annotated import list_annotated, read_annotated
from cellengine.train.prepare.dsb2018 import Dsb2018Options, prepare_dsb2018
from cellengine.train.prepare.masks import resolve_masks
from cellengine.train.prepare.pictures import SplitOptions
from tests.synthetic import draw_cells
from tests.train.prepare.helpers import names_in, problems, read_list, read_report, write_kaggle

OPTIONS = Dsb2018Options()
MASKS = st.lists(hnp.arrays(np.bool_, (5, 6)), min_size=1, max_size=5)


def owner_by_hand(masks: list[np.ndarray], y: int, x: int) -> int:
    """The smallest mask on a pixel, of equal ones the last; -1 for none."""
    there = [i for i, mask in enumerate(masks) if mask[y, x]]
    return min(there, key=lambda i: (masks[i].sum(), -i)) if there else -1


@given(MASKS)
@settings(max_examples=30)
def test_masks_are_resolved_pixel_by_pixel(masks: list[np.ndarray]) -> None:
    found = resolve_masks(masks, (5, 6))
    owners = np.array([[owner_by_hand(masks, y, x) for x in range(6)] for y in range(5)])
    number_of = {}
    for y, x in np.ndindex(5, 6):
        assert number_of.setdefault(int(owners[y, x]), int(found.labels[y, x])) == found.labels[y, x]
    assert number_of.pop(-1, 0) == 0
    assert sorted(number_of.values()) == list(range(1, len(number_of) + 1))
    assert found.overlap_px == (np.sum(masks, axis=0) > 1).sum()
    assert bool(found.overlapping) == bool(found.overlap_px)
    assert set(found.empty) == {i for i, mask in enumerate(masks) if not mask.any()}
    assert set(found.hidden) == set(range(len(masks))) - set(found.empty) - set(number_of)


def test_a_list_that_training_reads(tmp_path: Path) -> None:
    for i in range(6):
        write_kaggle(tmp_path / "stage1", f"picture{i}", *draw_cells((48, 64), 6, seed=i))
    colour = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    write_kaggle(tmp_path / "stage1", "stained", colour, draw_cells((48, 64), 6, seed=9)[1])
    prepare_dsb2018(tmp_path / "stage1", tmp_path / "out", OPTIONS)
    items = list_annotated(tmp_path / "out" / "list.csv", kind_column="kind")
    assert {item.kind for item in items} == {"fluorescence", "stained"}
    assert {item.split for item in items} == {"train", "val"}
    for i, item in enumerate(items[:6]):
        picture = read_annotated(item)
        image, labels = draw_cells((48, 64), 6, seed=i)
        np.testing.assert_array_equal(picture.image, image[None])
        np.testing.assert_array_equal(picture.labels > 0, labels > 0)
        assert picture.labels.max() == len(np.unique(labels)) - 1
    numbers = read_report(tmp_path / "out")["numbers"]
    train = [read_annotated(item).image for item in items if item.split == "train"]
    pixels = np.concatenate([np.broadcast_to(image, (3, 48, 64)).reshape(3, -1) for image in train], axis=1)
    assert numbers["mean_pixel_of_train"] == pytest.approx(pixels.mean(axis=1), abs=1e-3)
    assert not any(name.endswith(".partial") for name in names_in(tmp_path / "out"))


def test_every_defect_is_listed(tmp_path: Path) -> None:
    source = tmp_path / "stage1"
    for i in range(3):
        write_kaggle(source, f"good{i}", *draw_cells((40, 40), 5, seed=i))
    image, labels = draw_cells((40, 40), 5, seed=7)
    bare = write_kaggle(source, "bare", image, labels)
    for path in (bare / "masks").iterdir():
        path.unlink()
    iio.imwrite(write_kaggle(source, "small", image, labels) / "masks" / "z.png", np.full((10, 40), 255, np.uint8))
    iio.imwrite(write_kaggle(source, "two", image, labels) / "images" / "second.png", image)
    broken = write_kaggle(source, "broken", image, labels) / "images" / "broken.png"
    broken.write_bytes(broken.read_bytes()[:60])
    void = write_kaggle(source, "void", image, np.zeros_like(labels))
    iio.imwrite(void / "masks" / "0.png", np.zeros((40, 40), np.uint8))
    odd = write_kaggle(source, "odd", np.full((40, 40), 7, np.uint8), labels)
    first = iio.imread(odd / "masks" / "001.png")
    iio.imwrite(odd / "masks" / "again.png", first)
    iio.imwrite(odd / "masks" / "empty.png", np.zeros((40, 40), np.uint8))
    pieces = np.zeros((40, 40), np.uint8)
    pieces[0, 0] = pieces[39, 39] = 255
    iio.imwrite(odd / "masks" / "pieces.png", pieces)
    prepare_dsb2018(source, tmp_path / "out", OPTIONS)
    found = problems(read_report(tmp_path / "out"))
    assert found["bare"] == ["the picture has no masks"]
    assert found["small"] == ["1 masks of another size: z.png is (10, 40), the picture is (40, 40)"]
    assert found["two"] == ["2 pictures in images/; expected one"]
    assert "broken.png" in found["broken"][0]
    assert found["void"] == ["its 1 masks are empty"]
    assert found["odd"] == [
        f"1 pairs of masks overlap in {int((first > 0).sum())} px, for instance 001.png and again.png",
        "the mask empty.png is empty",
        "the mask 001.png lies under smaller ones altogether",
        "the mask pieces.png is in several pieces",
        "the picture is constant (7 everywhere)",
    ]
    assert {Path(row["image"]).stem for row in read_list(tmp_path / "out" / "list.csv")} == {
        "good0", "good1", "good2", "odd",
    }  # fmt: skip


def test_copies_and_tiles_stay_in_one_split(tmp_path: Path) -> None:
    source = tmp_path / "stage1"
    for i in range(4):
        write_kaggle(source, f"other{i}", *draw_cells((64, 64), 8, seed=i))
    image, labels = draw_cells((64, 64), 8, seed=20)
    write_kaggle(source, "first", image, labels)
    write_kaggle(source, "mirrored", np.rot90(image[:, ::-1]).copy(), np.rot90(labels[:, ::-1]))
    smooth = ndimage.gaussian_filter(np.random.default_rng(21).normal(size=(64, 128)), 4)
    field = ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)
    cells = (field > 160).astype(np.uint8)
    write_kaggle(source, "left", field[:, :64].copy(), cells[:, :64])
    write_kaggle(source, "right", field[:, 64:].copy(), cells[:, 64:])
    for seed in range(1, 4):
        output = tmp_path / f"out{seed}"
        prepare_dsb2018(source, output, Dsb2018Options(SplitOptions(0.3, 0, seed)))
        rows = {Path(row["image"]).stem: row for row in read_list(output / "list.csv")}
        assert rows["first"]["group"] == rows["mirrored"]["group"] == "first"
        assert rows["left"]["group"] == rows["right"]["group"] == "left"
        assert len({row["group"] for row in rows.values()}) == 6
        assert problems(read_report(output))["mirrored"] == ["it shows the same as first"]


def test_what_cannot_be_prepared_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        prepare_dsb2018(tmp_path / "nowhere", tmp_path / "out", OPTIONS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no folders in it"):
        prepare_dsb2018(tmp_path / "empty", tmp_path / "out", OPTIONS)
    place = write_kaggle(tmp_path / "test", "unlabelled", *draw_cells((20, 20), 0, seed=0))
    (place / "masks").rmdir()
    with pytest.raises(InputError, match="No item is usable, 1 defects were found; the first: unlabelled"):
        prepare_dsb2018(tmp_path / "test", tmp_path / "out", OPTIONS)
    assert names_in(tmp_path / "out") <= {".lock"}


def test_the_command_on_real_pictures(data: Path, tmp_path: Path) -> None:
    rows = read_list(data / "dsb2018" / "split.csv")
    small = [row for row in rows if row["height"] == row["width"] == "256" and int(row["n_nuclei"]) < 12][:3]
    stained = [row for row in rows if row["kind"].startswith("histology") and int(row["n_nuclei"]) < 15][:2]
    for row in small + stained:
        labels = iio.imread(data / "dsb2018" / row["label"])
        write_kaggle(tmp_path / "stage1", row["id"], iio.imread(data / "dsb2018" / row["image"]), labels)
    arguments = ["prepare", "dsb2018", str(tmp_path / "stage1"), "-o", str(tmp_path / "out"), "--validation", "0.4"]
    result = CliRunner().invoke(group, arguments)
    assert result.exit_code == 0, result.output
    assert "5 items" in result.output
    kinds = {Path(row["image"]).stem: row["kind"] for row in read_list(tmp_path / "out" / "list.csv")}
    assert {kinds[row["id"]] for row in stained} == {"stained"}
    for row in small + stained:
        truth = iio.imread(data / "dsb2018" / row["label"])
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "labels" / f"{row['id']}.tif"), truth)
    evaluation = ["evaluate", str(tmp_path / "out" / "labels"), str(tmp_path / "out" / "list.csv"), "--by", "kind"]
    scores = CliRunner().invoke(group, evaluation)
    assert scores.exit_code == 0, scores.output
    assert "stained" in scores.output
    again = CliRunner().invoke(group, arguments)
    assert "is complete; nothing to do" in again.output
