"""Crops are cut around boxes and labelled cells, mirrored at the border; what does not fit is listed."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from click.testing import CliRunner

from cellengine.cli import group
from cellengine.errors import InputError, UsageError
from cellengine.io.crops import read_crops
from cellengine.train.prepare.crops import CropOptions, prepare_crops
from tests.synthetic import draw_cells
from tests.train.prepare.helpers import problems, read_list, read_report

OPTIONS = CropOptions(sizes_px=(16, 24))


def write_frames(folder: Path, count: int = 4) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image, labels = draw_cells((50, 60), 6, seed=i)
        iio.imwrite(folder / f"f{i}.png", image)
        iio.imwrite(folder / f"f{i}_label.png", labels.astype(np.uint8))


def write_table(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


BOXES = "frame,split,label,xmin,ymin,xmax,ymax"


def test_crops_of_boxes_are_those_of_training(tmp_path: Path) -> None:
    write_frames(tmp_path)
    rows = [f"f{i}.png,{'val' if i == 3 else 'train'},{kind},{x},{y},{x + 9},{y + 8}"
            for i in range(4) for kind, x, y in (("live", 20, 10), ("dead", -3, 40))]  # fmt: skip
    table = write_table(tmp_path / "cells.csv", BOXES, *rows)
    prepare_crops(table, tmp_path / "out", OPTIONS)
    for size in (16, 24):
        direct = read_crops(table, ("live", "dead"), (size, size))
        stored = read_crops(tmp_path / "out" / f"list_{size}.csv", ("live", "dead"), (size, size))
        assert [(a.label, a.split) for a in stored] == [(b.label, b.split) for b in direct]
        for a, b in zip(stored, direct, strict=True):
            np.testing.assert_array_equal(a.image, b.image)
    rows_16 = read_list(tmp_path / "out" / "list_16.csv")
    answers = [f"{row['image']},{'live' if i else 'dead'}" for i, row in enumerate(rows_16)]
    write_table(tmp_path / "classes.csv", "file,class", *answers)
    truth = str(tmp_path / "out" / "list_16.csv")
    scores = CliRunner().invoke(group, ["evaluate", str(tmp_path / "classes.csv"), truth, "--task", "classes"])
    assert scores.exit_code == 0, scores.output
    assert "0.375" in scores.output  # three of the eight are right
    image = iio.imread(tmp_path / "f0.png")
    crop = iio.imread(tmp_path / "out" / read_list(tmp_path / "out" / "list_16.csv")[1]["image"])
    padded = np.pad(image, 20, mode="reflect")
    np.testing.assert_array_equal(crop, padded[44 - 8 + 20 : 44 + 8 + 20, 1 - 8 + 20 : 1 + 8 + 20])
    numbers = read_report(tmp_path / "out")["numbers"]
    assert numbers["crops_of_each_size"] == 8
    assert numbers["mirrored_at_the_border"] == 4
    assert numbers["cells_larger_than_16_px"] == 0


def test_crops_of_labelled_cells(tmp_path: Path) -> None:
    write_frames(tmp_path)
    pictures = write_table(
        tmp_path / "pictures.csv", "image,mask,group", *(f"f{i}.png,f{i}_label.png,field{i // 2}" for i in range(4))
    )
    rows = [f"f{i}.png,{n},{'live' if n % 2 else 'dead'}" for i in range(4) for n in (1, 2)]
    prepare_crops(
        write_table(tmp_path / "cells.csv", "image,label,class", *rows), tmp_path / "out", OPTIONS, pictures=pictures
    )
    found = read_list(tmp_path / "out" / "list_24.csv")
    assert [row["class"] for row in found] == ["live", "dead"] * 4
    assert {row["group"] for row in found} == {"field0", "field1"}
    assert len({(row["group"], row["split"]) for row in found}) == 2
    for row, (i, number) in zip(found, ((i, n) for i in range(4) for n in (1, 2)), strict=True):
        y, x = np.nonzero(draw_cells((50, 60), 6, seed=i)[1] == number)
        assert (int(row["y"]), int(row["x"])) == ((y.min() + y.max() + 1) // 2, (x.min() + x.max() + 1) // 2)


def test_an_edited_table_or_label_image_counts(tmp_path: Path) -> None:
    write_frames(tmp_path)
    pictures = write_table(tmp_path / "pictures.csv", "image,mask", *(f"f{i}.png,f{i}_label.png" for i in range(4)))
    rows = [f"f{i}.png,{n},{'live' if n % 2 else 'dead'}" for i in range(4) for n in (1, 2)]

    def prepare(*rows: str) -> tuple[bool, list[dict[str, str]]]:
        table = tmp_path / "cells.csv"
        if rows:
            write_table(table, "image,label,class", *rows)
        finished = prepare_crops(table, tmp_path / "out", OPTIONS, pictures=pictures)
        return finished.was_complete, read_list(tmp_path / "out" / "list_16.csv")

    _, first = prepare(*rows)
    assert prepare() == (True, first)
    complete, found = prepare(*rows[:-1], rows[-1].replace("dead", "live"))
    assert not complete
    assert [row["class"] for row in found] == [row["class"] for row in first[:-1]] + ["live"]
    labels = iio.imread(tmp_path / "f1_label.png")
    iio.imwrite(tmp_path / "f1_label.png", np.roll(labels, 7, axis=0))
    complete, moved = prepare()
    assert not complete
    same = [(a["y"], a["x"]) == (b["y"], b["x"]) for a, b in zip(found, moved, strict=True)]
    assert same[:2] + same[4:] == [True] * 6
    assert not any(same[2:4])


def test_every_defect_is_listed(tmp_path: Path) -> None:
    write_frames(tmp_path)
    (tmp_path / "f3.png").write_bytes((tmp_path / "f3.png").read_bytes()[:50])
    table = write_table(
        tmp_path / "cells.csv", BOXES,
        "f0.png,train,live,5,5,20,20", "f0.png,train,dead,5,5,20,20", "f0.png,val,live,15,5,30,20",
        "f1.png,val,live,5,5,5,20", "f1.png,val,,5,5,20,20", "f1.png,val,dead,a,5,20,20", "f1.png,val,dead,5,5,20,20",
        "f2.png,train,live,80,5,99,20", "f2.png,train,live,20,5,40,20",
        "f3.png,train,live,5,5,20,20", "gone.png,train,live,5,5,20,20",
    )  # fmt: skip
    prepare_crops(table, tmp_path / "out", OPTIONS)
    found = problems(read_report(tmp_path / "out"))
    assert found["cells.csv, line 3"] == ["the cell is listed as dead, in line 2 as live"]
    assert found["f0.png"] == ["its cells are in train and val"]
    assert found["cells.csv, line 5"] == ["the box 5, 5, 5, 20 is empty; expected xmin < xmax and ymin < ymax"]
    assert found["cells.csv, line 6"] == ["the cell has no class"]
    assert found["cells.csv, line 7"] == ["a box or number is missing or no number"]
    assert found["f2.png"] == ["line 9: the box lies outside the picture of 50 x 60 px"]
    assert "f3.png" in found["f3.png"][0]
    assert found["gone.png"] == ["the picture does not exist; its 1 cells are lost"]
    assert [row["picture"] for row in read_list(tmp_path / "out" / "list_16.csv")] == ["f0.png"] * 2 + [
        "f1.png",
        "f2.png",
    ]


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    write_frames(tmp_path)
    iio.imwrite(tmp_path / "f1_label.png", np.ones((10, 10), np.uint8))
    (tmp_path / "f2_label.png").unlink()
    pictures = write_table(
        tmp_path / "pictures.csv", "image,label", "f0.png,f0_label.png", "f1.png,f1_label.png", "f2.png,f2_label.png"
    )
    rows = ["f0.png,1,live", "f0.png,77,live", "f1.png,1,live", "f2.png,1,live", "f3.png,1,dead", "f0.png,2,dead"]
    table = write_table(tmp_path / "cells.csv", "image,label,class", *rows)
    with pytest.raises(UsageError, match=r"has no boxes .* together with --pictures"):
        prepare_crops(table, tmp_path / "out", OPTIONS)
    with pytest.raises(InputError, match="Found 1 group"):
        prepare_crops(table, tmp_path / "out", OPTIONS, pictures=pictures)
    pictures.write_text(
        pictures.read_text().replace("image,label", "image,label,split").replace("label.png", "label.png,val")
    )
    prepare_crops(table, tmp_path / "second", OPTIONS, pictures=pictures)
    found = problems(read_report(tmp_path / "second"))
    assert found["f0.png"] == ["line 3: the label image has no cell 77"]
    assert found["f1.png"] == ["the labels f1_label.png are (10, 10), the picture is (50, 60)"]
    assert found["f2.png"] == ["the picture has no label image; its 1 cells are lost"]
    assert found["f3.png"] == ["the picture is not in pictures.csv; its 1 cells are lost"]


def test_the_command_on_real_frames(data: Path, tmp_path: Path) -> None:
    rows = read_list(data / "cells" / "livedead" / "cells.csv")
    frames = list(dict.fromkeys(row["frame"] for row in rows))[:8]
    chosen = [row for row in rows if row["frame"] in frames]
    lines = [
        ",".join(row[c] for c in ("crop", "frame", "split", "label", "xmin", "ymin", "xmax", "ymax")) for row in chosen
    ]
    table = write_table(tmp_path / "cells.csv", "crop,frame,split,label,xmin,ymin,xmax,ymax", *lines)
    pictures = write_table(tmp_path / "frames.csv", "frame,split", *(f"{frame},train" for frame in frames))
    for frame in frames:
        (tmp_path / frame).parent.mkdir(exist_ok=True)
        (tmp_path / frame).write_bytes((data / "cells" / "livedead" / frame).read_bytes())
    arguments = [
        "prepare",
        "crops",
        str(table),
        "-o",
        str(tmp_path / "out"),
        "--pictures",
        str(pictures),
        "--size",
        "48",
    ]
    result = CliRunner().invoke(group, arguments)
    assert result.exit_code == 0, result.output
    found = read_list(tmp_path / "out" / "list_48.csv")
    assert [row["class"] for row in found] == [row["label"] for row in chosen]
    with np.load(data / "cells" / "livedead" / "crops.npz") as file:
        published = file["image"]
    for row, made in zip(chosen, found, strict=True):
        crop = iio.imread(tmp_path / "out" / made["image"])
        if crop.dtype == np.uint8 and made["image"].endswith(".png"):
            theirs = published[int(row["crop"])]
            # a box of odd length has no middle pixel: the published crops may lie one pixel off
            near = [np.abs(np.roll(crop, (dy, dx), (0, 1))[2:-2, 2:-2].astype(int) - theirs[2:-2, 2:-2]).max()
                    for dy in (-1, 0, 1) for dx in (-1, 0, 1)]  # fmt: skip
            assert min(near) == 0


def test_pictures_of_one_stem_keep_their_own_crops(tmp_path: Path) -> None:
    write_frames(tmp_path, 2)
    iio.imwrite(tmp_path / "f0.bmp", iio.imread(tmp_path / "f1.png"))
    table = write_table(
        tmp_path / "cells.csv", BOXES, "f0.png,train,live,20,20,30,30", "f0.bmp,val,live,20,20,30,30"
    )  # fmt: skip
    prepare_crops(table, tmp_path / "out", OPTIONS)
    rows = read_list(tmp_path / "out" / "list_16.csv")
    crops = [iio.imread(tmp_path / "out" / row["image"]) for row in rows]
    for crop, name in zip(crops, ("f0.png", "f1.png"), strict=True):
        np.testing.assert_array_equal(crop, iio.imread(tmp_path / name)[17:33, 17:33])
