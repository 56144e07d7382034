"""Grey values become classes, stray ones are counted; pictures and masks are paired by name."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellengine.cli import group
from cellengine.errors import InputError, UsageError
from cellengine.io.annotated import list_annotated, read_annotated
from cellengine.train.prepare.wbc import WbcOptions, class_map, prepare_wbc, resize_nearest
from tests.train.prepare.helpers import problems, read_list, read_report


def by_hand(value: int) -> int:
    return min(range(3), key=lambda c: abs(value - (0, 128, 255)[c]))


@given(hnp.arrays(np.uint8, (4, 5)))
@settings(max_examples=30)
def test_class_map_takes_the_nearest_value_and_counts_the_others(drawn: np.ndarray) -> None:
    labels, stray = class_map(drawn)
    assert labels.tolist() == [[by_hand(int(v)) for v in row] for row in drawn]
    assert sum(stray.values()) == sum(int(v) not in (0, 128, 255) for v in drawn.ravel())
    assert all((drawn == value).sum() == n for value, n in stray.items())


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=30)
def test_resize_takes_the_pixel_of_the_centre(height: int, width: int, size: int) -> None:
    array = np.arange(height * width).reshape(height, width)
    expected = [
        [array[int((i + 0.5) * height / size), int((j + 0.5) * width / size)] for j in range(size)] for i in range(size)
    ]
    assert resize_nearest(array, size).tolist() == expected


def write_pair(folder: Path, name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    image = random.integers(0, 255, (30, 36, 3), np.uint8)
    mask = np.zeros((30, 36), np.uint8)
    mask[5:25, 5:30], mask[10:20, 10:20] = 128, 255
    folder.mkdir(parents=True, exist_ok=True)
    iio.imwrite(folder / f"{name}.bmp", image)
    iio.imwrite(folder / f"{name}.png", mask)
    return image, mask


def test_a_list_that_training_reads(tmp_path: Path) -> None:
    made = {f"Dataset-1_{i:03}": write_pair(tmp_path / "in" / "Dataset 1", f"{i:03}", i) for i in range(5)}
    prepare_wbc(tmp_path / "in", tmp_path / "out", WbcOptions())
    items = list_annotated(tmp_path / "out" / "list.csv")
    assert [item.image.stem for item in items] == list(made)
    for item in items:
        image, mask = made[item.image.stem]
        picture = read_annotated(item)
        np.testing.assert_array_equal(picture.image, np.moveaxis(image, -1, 0))
        np.testing.assert_array_equal(picture.labels, np.searchsorted((0, 128, 255), mask))
    report = read_report(tmp_path / "out")
    assert report["defects"] == []
    assert report["numbers"]["share_of_nucleus"] == pytest.approx(100 / 1080, abs=1e-4)
    prepare_wbc(tmp_path / "in", tmp_path / "small", WbcOptions(size_px=16))
    assert {row["height"] for row in read_list(tmp_path / "small" / "list.csv")} == {"16"}


def test_every_defect_is_listed(tmp_path: Path) -> None:
    for i in range(7):
        image, mask = write_pair(tmp_path / "in", f"{i:03}", i)
    (tmp_path / "in" / "002.png").unlink()
    (tmp_path / "in" / "003.bmp").unlink()
    iio.imwrite(tmp_path / "in" / "004.png", mask[:20])
    mask[0, :7], mask[1, :2] = 127, 9
    iio.imwrite(tmp_path / "in" / "005.png", mask)
    iio.imwrite(tmp_path / "in" / "006.png", np.where(mask == 255, 128, np.where(mask == 128, 128, 0)).astype(np.uint8))
    iio.imwrite(tmp_path / "in" / "007.bmp", image)
    iio.imwrite(tmp_path / "in" / "007.png", image)
    iio.imwrite(tmp_path / "in" / "008.bmp", iio.imread(tmp_path / "in" / "000.bmp"))
    iio.imwrite(tmp_path / "in" / "008.png", iio.imread(tmp_path / "in" / "000.png"))
    prepare_wbc(tmp_path / "in", tmp_path / "out", WbcOptions())
    found = problems(read_report(tmp_path / "out"))
    assert found["002"] == ["the picture has no mask"]
    assert found["003"] == ["the mask has no picture"]
    assert found["004"] == ["the mask 004.png is (20, 36), the picture is (30, 36)"]
    assert found["005"] == ["values other than (0, 128, 255) in the mask: 9 (2 px), 127 (7 px)"]
    assert found["006"] == ["no nucleus in the mask"]
    assert found["007"] == ["the mask 007.png is coloured; expected grey values (0, 128, 255)"]
    assert found["008"] == ["it shows the same as 000"]
    rows = {Path(row["image"]).stem: row for row in read_list(tmp_path / "out" / "list.csv")}
    assert set(rows) == {"000", "001", "005", "006", "008"}
    assert rows["000"]["split"] == rows["008"]["split"]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        prepare_wbc(tmp_path / "nowhere", tmp_path / "out", WbcOptions())
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="no pictures in it"):
        prepare_wbc(tmp_path / "in", tmp_path / "out", WbcOptions())


def test_the_command_on_a_list_of_real_pictures(data: Path, tmp_path: Path) -> None:
    rows = [row for row in read_list(data / "wbc" / "dataset2.csv") if row["id"] in ("034", "035", "001", "002")]
    lines = [f"{data / 'wbc' / row['image']},{data / 'wbc' / row['mask']}" for row in rows]
    (tmp_path / "list.csv").write_text("\n".join(["image,mask", *lines]) + "\n")
    result = CliRunner().invoke(group, ["prepare", "wbc", str(tmp_path / "list.csv"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "4 items" in result.output
    found = problems(read_report(tmp_path / "out"))
    assert len(found) == 2
    assert read_report(tmp_path / "out")["numbers"]["stray_px"] == 97 + 3
