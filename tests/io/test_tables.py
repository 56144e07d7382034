"""Tables and previews: what is written is what another reader reads."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from cellengine.errors import InputError, ResourceError, UsageError
from cellengine.io import TableWriter, read_table, write_png, write_table
from cellengine.io.axes import Array

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8)
COLUMNS = st.integers(1, 12).flatmap(
    lambda rows: st.fixed_dictionaries(
        {
            "label": npst.arrays(np.uint32, rows),
            "offset": npst.arrays(np.int64, rows),
            "mean": npst.arrays(np.float64, rows),
            "score": npst.arrays(np.float32, rows, elements=st.floats(0, 1, width=32)),
            "touches": npst.arrays(np.bool_, rows),
            "class, name": st.lists(TEXT, min_size=rows, max_size=rows).map(
                lambda names: np.array(names, dtype=object)
            ),
        }
    )
)


@settings(max_examples=50, deadline=None)
@given(columns=COLUMNS)
def test_the_standard_csv_reader_finds_the_same_cells(
    columns: dict[str, Array], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("table") / "a.csv"
    write_table(path, columns)
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == list(columns)
    found = dict(zip(header, zip(*rows, strict=True), strict=True))
    for name in ("label", "offset", "touches"):
        assert [int(v) for v in found[name]] == columns[name].astype(object).astype(int).tolist()
    for name in ("mean", "score"):
        got = np.array([float(v) for v in found[name]])
        np.testing.assert_allclose(got, columns[name].astype(np.float64), rtol=5.1e-8)
    assert list(found["class, name"]) == columns["class, name"].tolist()


def test_read_table_gives_the_types_back(tmp_path: Path) -> None:
    columns = {
        "label": np.arange(1, 6),
        "x": np.array([0.5, np.nan, np.inf, -2e-9, 1e12]),
        "class": np.array(list("abcab")),
    }
    write_table(tmp_path / "a.csv", columns)
    got = read_table(tmp_path / "a.csv", required=["label", "class"])
    assert [got[name].dtype.kind for name in got] == ["i", "f", "U"]
    for name, values in columns.items():
        np.testing.assert_array_equal(got[name], values)


def test_blocks_are_appended_in_order_and_the_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.csv"
    with TableWriter(path, ["label", "x"]) as table:
        for start in (0, 70_000, 70_000):
            n = 70_000 if start == 0 else 5
            table.append({"x": np.arange(n) / 2, "label": np.arange(start, start + n)})
            assert not path.exists()
        table.append({"x": np.zeros(0), "label": np.zeros(0, int)})
    got = read_table(path)
    np.testing.assert_array_equal(got["label"], [*range(70_000), *range(70_000, 70_005), *range(70_000, 70_005)])
    assert [p.name for p in path.parent.iterdir()] == ["a.csv"]


def test_a_table_without_rows_has_its_header(tmp_path: Path) -> None:
    TableWriter(tmp_path / "a.csv", ["label", "x"]).close()
    assert (tmp_path / "a.csv").read_text() == "label,x\n"
    assert {name: len(column) for name, column in read_table(tmp_path / "a.csv").items()} == {"label": 0, "x": 0}


def test_an_error_leaves_no_table(tmp_path: Path) -> None:
    for block in ({"label": [1]}, {"label": [1, 2], "x": [1]}, {"label": [1], "x": [1], "y": [1]}):
        with pytest.raises(ValueError, match="columns"), TableWriter(tmp_path / "a.csv", ["label", "x"]) as table:
            table.append(block)
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full to stand for a full disk")
    (tmp_path / ".a.csv.partial").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match="disk is full"):
        write_table(tmp_path / "a.csv", {"label": np.arange(100_000)})
    (tmp_path / ".a.csv.partial").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match="disk is full"):
        write_table(tmp_path / "a.csv", {"label": np.arange(3)})
    assert list(tmp_path.iterdir()) == []


def test_tables_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(UsageError, match="no such file"):
        read_table(path)
    for text, message in [
        ("", "empty"),
        ("a,b\n1\n", "row 1 has 1 cells"),
        ("a,b\n1,2\n", "no column label"),
        ('a,b\n"1,2', "cannot"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_table(path, required=["label"])
    path.write_bytes(b"a,b\n\xff\xfe,2\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(path)


@pytest.mark.parametrize("shape", [(37, 53), (37, 53, 3), (1, 1, 3)])
def test_previews_are_lossless(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    write_png(tmp_path / "below" / "a.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "below" / "a.png")), pixels)
    assert [p.name for p in (tmp_path / "below").iterdir()] == ["a.png"]


def test_previews_of_other_arrays_and_in_impossible_places_are_refused(tmp_path: Path) -> None:
    for array in (np.zeros((4, 4), np.uint16), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            write_png(tmp_path / "a.png", array)
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot be written"):
        write_png(tmp_path / "file" / "a.png", np.zeros((4, 4), np.uint8))
