"""`cellengine evaluate` on real files in a folder: pairing, scores, report files, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from cellengine.cli.evaluate import command
from cellengine.errors import CellengineError, InputError, ResourceError, UsageError
from cellengine.metrics import THRESHOLDS, evaluate_instances, mean_over_pictures, pool


def evaluate(*arguments: object) -> str:
    """Run the command and return what it prints; errors pass through."""
    result = CliRunner().invoke(command, [str(one) for one in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def squares(seed: int, side: int = 48) -> np.ndarray:
    random = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.uint16)
    for number, (y, x) in enumerate(np.ndindex(side // 12, side // 12), 1):
        height, width = random.integers(5, 11, 2)
        labels[y * 12 : y * 12 + height, x * 12 : x * 12 + width] = number
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three annotated pictures in truth/ (one in a folder of its own) and predictions of them in out/."""
    for seed, name in enumerate(["a", "b", "deep/c"]):
        truth = squares(seed)
        answer = np.roll(np.where(truth == seed + 1, 0, truth), seed, axis=0).astype(np.uint32)
        picture = tmp_path / "images" / f"{name}.png"
        for path in (tmp_path / "truth" / f"{name}.png", tmp_path / "out" / f"{name}.labels.tif", picture):
            path.parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(tmp_path / "truth" / f"{name}.png", truth)
        iio.imwrite(picture, (truth * 13 % 256).astype(np.uint8))
        tifffile.imwrite(tmp_path / "out" / f"{name}.labels.tif", answer)
    (tmp_path / "out" / "a.overlay.png").write_bytes(picture.read_bytes())
    (tmp_path / "out" / "run.json").write_text("{}")
    rows = [["a", "val", "small", "a"], ["b", "val", "large", "b"], ["c", "train", "large", "deep/c"]]
    with (tmp_path / "split.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "kind", "image", "label"])
        writer.writerows([[*row[:3], f"images/{row[3]}.png", f"truth/{row[3]}.png"] for row in rows])
    return tmp_path


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def by_hand(folders: Path, names: list[str]) -> list:
    return [
        evaluate_instances(
            iio.imread(folders / f"truth/{name}.png"), tifffile.imread(folders / f"out/{name}.labels.tif")
        )
        for name in names
    ]


def test_folders_pair_by_name_and_the_report_holds_the_scores(folders: Path) -> None:
    printed = evaluate(folders / "out", folders / "truth", "-o", folders / "report")
    expected = by_hand(folders, ["a", "b", "deep/c"])
    found = read_json(folders / "report" / "evaluation.json")
    assert found["total"]["files"] == 3
    assert found["total"]["mean_over_pictures"] == pytest.approx(mean_over_pictures(expected))
    assert found["total"]["pooled"] == pytest.approx(pool(expected).row())
    with (folders / "report" / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["a", "b", "c"]
    for row, scores in zip(rows, expected, strict=True):
        assert {name: float(row[name]) for name in scores.row()} == pytest.approx(scores.row(), rel=1e-6)
    assert f"{pool(expected).mean_ap:.3f}" in printed
    assert sorted(path.name for path in (folders / "report").iterdir()) == [
        "evaluation.csv", "evaluation.html", "evaluation.json",
    ]  # fmt: skip


def test_list_chooses_rows_and_groups_them(folders: Path) -> None:
    printed = evaluate(
        folders / "out", folders / "split.csv", "--where", "split=val", "--by", "kind", "-o", folders / "report"
    )
    found = read_json(folders / "report" / "evaluation.json")
    assert found["total"]["files"] == 2
    assert list(found["groups"]) == ["large", "small"]
    expected = by_hand(folders, ["b"])
    assert found["groups"]["large"]["pooled"] == pytest.approx(pool(expected).row())
    assert [f"ap{t:g}" for t in THRESHOLDS] == [key for key in found["total"]["pooled"] if key.startswith("ap0")]
    assert "1 prediction(s) without a truth" in printed


def test_two_files_need_no_common_name(folders: Path) -> None:
    printed = evaluate(folders / "out" / "a.labels.tif", folders / "truth" / "a.png")
    assert "all, pooled" in printed
    assert "1.000" in evaluate(folders / "truth" / "b.png", folders / "truth" / "b.png")
    assert evaluate(folders / "out" / "a.labels.tif", folders / "truth" / "b.png")


def test_page_is_self_contained_and_shows_the_worst_first(folders: Path) -> None:
    evaluate(folders / "out", folders / "truth", "-o", folders / "report", "--images", folders / "images")
    page = (folders / "report" / "evaluation.html").read_text()
    captions = re.findall("<figcaption>(.*?):", page)
    scores = dict(zip(["a", "b", "c"], (one.mean_ap for one in by_hand(folders, ["a", "b", "deep/c"])), strict=True))
    assert captions == sorted(scores, key=scores.__getitem__)
    assert all(url.startswith("data:image/png;base64,") for url in re.findall('src="(.*?)"', page))
    assert not re.search(r"https?://", page)
    assert page.count("alt=") == 3


def test_names_are_escaped_in_the_page(folders: Path) -> None:
    (folders / "truth" / "a.png").rename(folders / "truth" / "[b]<i>&.png")
    (folders / "out" / "a.labels.tif").rename(folders / "out" / "[b]<i>&.labels.tif")
    printed = evaluate(folders / "out", folders / "truth", "-o", folders / "report")
    page = (folders / "report" / "evaluation.html").read_text()
    assert "[b]&lt;i&gt;&amp;" in page
    assert "<i>" not in page
    assert "[b]<i>&" in printed


def test_scores_of_objects_give_the_average_precision_of_the_ranking(folders: Path) -> None:
    for name in ("a", "b", "deep/c"):
        labels = tifffile.imread(folders / f"out/{name}.labels.tif")
        rows = "".join(f"{label},{1 / label}\n" for label in np.unique(labels) if label)
        (folders / f"out/{name}.objects.csv").write_text("label,score\n" + rows)
    evaluate(folders / "out", folders / "truth", "-o", folders / "report")
    assert 0 < read_json(folders / "report" / "evaluation.json")["total"]["pooled"]["voc_ap0.5"] <= 1
    (folders / "out" / "a.objects.csv").write_text("label,class\n1,x\n")
    evaluate(folders / "out", folders / "truth", "-o", folders / "report")
    assert "voc_ap0.5" not in read_json(folders / "report" / "evaluation.json")["total"]["pooled"]


def test_table_of_another_run_beside_the_labels(folders: Path) -> None:
    for name in ("a", "b", "deep/c"):
        (folders / f"out/{name}.objects.csv").write_text("label,score\n1,0.5\n")
    with pytest.raises(InputError, match="holds the label 2, which has no row"):
        evaluate(folders / "out", folders / "truth")


def test_semantic_maps_drawn_in_grey_values(folders: Path) -> None:
    classes = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint8)
    grey = np.array([0, 128, 255], np.uint8)[classes]
    grey[0, 0] = np.array([3, 120, 250])[classes[0, 0]]
    iio.imwrite(folders / "grey.png", grey)
    iio.imwrite(folders / "map.png", classes)
    printed = evaluate(
        folders / "map.png", folders / "grey.png", "--task", "semantic", "--truth-values", "0,128,255",
        "-o", folders / "report",
    )  # fmt: skip
    pooled = read_json(folders / "report" / "evaluation.json")["total"]["pooled"]
    assert pooled["mean_dice"] == pooled["iou_2"] == 1.0
    assert "1 voxels of the truth had a grey value that is no class" in printed
    with pytest.raises(InputError, match=r"values up to 255 in a map of classes.*--truth-values"):
        evaluate(folders / "map.png", folders / "grey.png", "--task", "semantic")


def read_confusion(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_confusion_of_maps_by_file_by_group_and_in_total(folders: Path) -> None:
    random = np.random.default_rng(0)
    expected = {}
    for name, classes in (("a", 3), ("b", 2), ("deep/c", 4)):
        truth, answer = (random.integers(0, classes, (20, 30)).astype(np.uint8) for _ in range(2))
        truth[0, :classes] = np.arange(classes)
        iio.imwrite(folders / "truth" / f"{name}.png", truth)
        tifffile.imwrite(folders / "out" / f"{name}.labels.tif", answer)
        expected[name[-1]] = [[int(((truth == i) & (answer == j)).sum()) for j in range(4)] for i in range(4)]
    evaluate(folders / "out", folders / "split.csv", "--by", "kind", "--task", "semantic", "-o", folders / "report")
    found = read_json(folders / "report" / "evaluation.json")
    assert found["classes"] == ["0", "1", "2", "3"]
    assert {file["file"]: file["confusion"] for file in found["files"]} == expected
    total = np.sum(list(expected.values()), axis=0).tolist()
    assert found["total"]["confusion"] == total
    assert found["groups"]["small"]["confusion"] == expected["a"]
    header, *rows = read_confusion(folders / "report" / "confusion.csv")
    assert header == ["true", *(f"predicted_{i}" for i in range(4))]
    assert [[int(cell) for cell in row] for row in rows] == [[i, *counts] for i, counts in enumerate(total)]
    assert "Confusion" in (folders / "report" / "evaluation.html").read_text()


@pytest.mark.parametrize("values", [None, "0,128,200"])
def test_voxels_that_nobody_knows_do_not_count(folders: Path, values: str | None) -> None:
    truth = np.array([0, 128, 200] if values else [0, 1, 2], np.uint8)[np.indices((20, 30)).sum(0) % 3]
    answer = (np.indices((20, 30)).sum(0) % 3).astype(np.uint8)
    truth[:7], answer[:7] = 255, 1
    answer[10, :6] = 2 - answer[10, :6]
    iio.imwrite(folders / "t.png", truth)
    iio.imwrite(folders / "p.png", answer)
    arguments = [folders / "p.png", folders / "t.png", "--task", "semantic", "-o", folders / "report"]
    arguments += ["--truth-values", values] if values else []
    printed = evaluate(*arguments, "--ignore", "255")
    found = read_json(folders / "report" / "evaluation.json")["total"]
    assert np.sum(found["confusion"]) == 13 * 30
    assert found["confusion"][0][2] + found["confusion"][2][0] == 4
    assert found["pooled"]["pixel_accuracy"] == pytest.approx(1 - 4 / 390)
    assert "210 voxels whose true value is 255 were left out." in printed
    assert "went to the nearest" not in printed


def test_negative_classes_are_refused(folders: Path) -> None:
    tifffile.imwrite(folders / "t.tif", np.full((20, 30), -1, np.int16))
    tifffile.imwrite(folders / "p.tif", np.zeros((20, 30), np.uint8))
    with pytest.raises(InputError, match=r"values down to -1 in a map of classes.*--ignore"):
        evaluate(folders / "p.tif", folders / "t.tif", "--task", "semantic")
    assert evaluate(folders / "p.tif", folders / "t.tif", "--task", "semantic", "--ignore", -1)


def test_boundary_task_respects_the_tolerance(folders: Path) -> None:
    truth = np.ones((20, 20), np.uint8)
    truth[:, 10:] = 2
    iio.imwrite(folders / "t.png", truth)
    iio.imwrite(folders / "p.png", np.where(np.arange(20) < 12, 1, 2).astype(np.uint8)[None].repeat(20, 0))

    def score(tolerance: float) -> dict:
        arguments = ("--task", "boundary", "--tolerance", tolerance, "-o", folders / "report")
        evaluate(folders / "p.png", folders / "t.png", *arguments)
        return read_json(folders / "report" / "evaluation.json")["total"]["pooled"]

    assert [score(tolerance)["boundary_f1"] for tolerance in (0, 1, 2)] == [0.0, 0.5, 1.0]
    assert score(0)["voi"] > 0


def test_volume_in_a_file_with_several_images(folders: Path) -> None:
    volume = np.zeros((5, 12, 14), np.uint16)
    volume[1:4, 2:6, 2:6], volume[1:4, 7:11, 7:11] = 1, 2
    with h5py.File(folders / "v.h5", "w") as file:
        file["raw"], file["label"] = volume * 9, volume
    tifffile.imwrite(folders / "out" / "v.labels.tif", volume.astype(np.uint32), metadata={"axes": "ZYX"})
    (folders / "v.csv").write_text("image,label\nv.h5:/raw,v.h5:/label\n")
    evaluate(folders / "out", folders / "v.csv", "--axes", "ZYX", "-o", folders / "report")
    assert read_json(folders / "report" / "evaluation.json")["total"]["pooled"]["mean_ap"] == 1.0
    assert "plane 1" in (folders / "report" / "evaluation.html").read_text()


def classified(folder: Path) -> None:
    rows = [("x/1.png", "live", 0.9, 0.9, 0.1), ("x/2.png", "dead", 0.8, 0.2, 0.8), ("x/3.png", "dead", 0.6, 0.4, 0.6)]
    with (folder / "classes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "score", "live", "dead"])
        writer.writerows(rows)
    (folder / "truth.csv").write_text("file,class,plate\n1.png,live,p\n2.png,dead,p\n3.png,live,<q>\n")


def test_classes(folders: Path) -> None:
    classified(folders)
    printed = evaluate(
        folders / "classes.csv", folders / "truth.csv", "--task", "classes", "--by", "plate", "-o", folders / "report"
    )
    found = read_json(folders / "report" / "evaluation.json")
    assert found["total"]["pooled"]["accuracy"] == pytest.approx(2 / 3)
    assert found["total"]["pooled"]["recall_live"] == 0.5
    assert found["groups"]["<q>"]["pooled"]["accuracy"] == 0.0
    assert found["groups"]["<q>"]["pooled"]["roc_auc"] is None
    assert "mean_over_pictures" not in found["total"]
    assert found["classes"] == ["live", "dead"]
    assert found["total"]["confusion"] == [[1, 1], [0, 1]]
    assert found["groups"]["<q>"]["confusion"] == [[0, 1], [0, 0]]
    assert read_confusion(folders / "report" / "confusion.csv") == [
        ["true", "predicted_live", "predicted_dead"], ["live", "1", "1"], ["dead", "0", "1"],
    ]  # fmt: skip
    page = (folders / "report" / "evaluation.html").read_text()
    assert "Confusion" in page
    assert "&lt;q&gt;" in page
    assert "0.667" in printed


def test_classes_by_folder_show_the_mistakes(folders: Path) -> None:
    classified(folders)
    for name, label in (("1", "live"), ("2", "dead"), ("3", "live")):
        (folders / "sorted" / label).mkdir(parents=True, exist_ok=True)
        iio.imwrite(folders / "sorted" / label / f"{name}.png", squares(1))
    text = (folders / "classes.csv").read_text()
    (folders / "classes.csv").write_text(re.sub(r"x/(\d)", r"\1", text))
    evaluate(folders, folders / "sorted", "--task", "classes", "-o", folders / "report")
    page = (folders / "report" / "evaluation.html").read_text()
    assert "live/3: live, called dead with probability 0.600" in page
    assert page.count("<figure>") == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["nowhere", "truth"], UsageError, "nowhere does not exist"),
        (["out", "nowhere"], UsageError, "nowhere does not exist"),
        (["out", "truth", "--where", "split=val"], UsageError, "choose rows of a CSV list"),
        (["out", "split.csv", "--where", "split"], UsageError, "expected COLUMN=VALUE"),
        (["out", "split.csv", "--where", "split=val", "--where", "split=train"], UsageError, "given twice"),
        (["out", "split.csv", "--where", "split=test"], UsageError, "found split: train, val"),
        (["out", "split.csv", "--where", "stain=red"], UsageError, "no column stain; its columns are id, split"),
        (["out", "split.csv", "--by", "stain"], UsageError, "no column stain"),
        (["out", "truth", "--tolerance", "1"], UsageError, "belongs to --task boundary"),
        (["out", "truth", "--truth-values", "1"], UsageError, "belongs to --task semantic"),
        (["out", "truth", "--ignore", "1"], UsageError, "belongs to --task semantic"),
        (["out", "truth", "--task", "semantic", "--truth-values", "1,2", "--ignore", "2"], UsageError, "are classes"),
        (["out", "truth", "--task", "semantic", "--truth-values", "1,x"], UsageError, "expected whole numbers"),
        (["out", "truth", "--task", "semantic", "--truth-values", "1,1"], UsageError, "expected different numbers"),
        (["out", "truth", "-o", "split.csv"], UsageError, "is a file; expected a folder"),
        (["out", "truth", "--images", "nowhere"], UsageError, "is not a folder"),
        (["out", "truth", "--task", "classes"], UsageError, r"classes.csv does not exist"),
        (["out/deep", "truth"], InputError, "2 of 3 annotated pictures have no prediction.*a.png, b.png"),
        (["empty", "truth"], InputError, "no label images found"),
        (["out", "empty"], InputError, "no label images found"),
        (["out", "bare.csv"], InputError, "no column names the true label images; expected label or mask"),
        (["out", "empty.csv"], InputError, "has no rows"),
        (["out", "lost.csv"], InputError, "1 of 1 listed files do not exist"),
        (["small.png", "truth/a.png"], InputError, r"shape \(5, 6\) but .* has \(48, 48\)"),
        (["colour.png", "truth/a.png"], InputError, "has channels"),
        (["float.tif", "truth/a.png"], InputError, "holds whole numbers"),
        (["cut.tif", "truth/a.png"], InputError, "cut.tif"),
    ],
)
def test_refusals(folders: Path, monkeypatch: pytest.MonkeyPatch, arguments: list, error: type, message: str) -> None:
    monkeypatch.chdir(folders)
    Path("empty").mkdir()
    Path("bare.csv").write_text("id\n1\n")
    Path("empty.csv").write_text("label\n")
    Path("lost.csv").write_text("label\nlost.png\n")
    iio.imwrite("small.png", np.ones((5, 6), np.uint8))
    iio.imwrite("colour.png", np.random.default_rng(0).integers(0, 255, (48, 48, 3)).astype(np.uint8))
    tifffile.imwrite("float.tif", np.ones((48, 48), np.float32))
    Path("cut.tif").write_bytes(Path("out/a.labels.tif").read_bytes()[:600])
    before = sorted(folders.rglob("*"))
    with pytest.raises(error, match=message) as caught:
        evaluate(*arguments)
    assert isinstance(caught.value, CellengineError)
    assert "\n" not in str(caught.value)
    assert sorted(folders.rglob("*")) == before


def test_predictions_that_fit_equally_well_are_refused(folders: Path) -> None:
    (folders / "out" / "x").mkdir()
    (folders / "out" / "y").mkdir()
    answer = (folders / "out" / "a.labels.tif").read_bytes()
    (folders / "out" / "a.labels.tif").unlink()
    for name in ("x", "y"):
        (folders / "out" / name / "a.labels.tif").write_bytes(answer)
    with pytest.raises(InputError, match="a: 2 files fit"):
        evaluate(folders / "out", folders / "truth")
    (folders / "truth" / "x").mkdir()
    (folders / "truth" / "a.png").rename(folders / "truth" / "x" / "a.png")
    assert evaluate(folders / "out", folders / "truth")
    (folders / "out" / "x" / "a.labels.tif").rename(folders / "out" / "a.labels.tif")
    (folders / "out" / "y" / "a.labels.tif").unlink()
    (folders / "truth" / "a.png").write_bytes((folders / "truth" / "x" / "a.png").read_bytes())
    with pytest.raises(InputError, match="fits both"):
        evaluate(folders / "out", folders / "truth")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class,score,live,dead\n1.png,live,1,1,0\n", "2 of 3 pictures have no row"),
        ("file,score\n1.png,1\n", "no column names the predicted class"),
        ("file,class,score,alive,dead\n1.png,alive,1,1,0\n2.png,dead,1,0,1\n3.png,dead,1,0,1\n", "class live is none"),
        ("file,class,score,live,dead\n1.png,live,1,1,x\n2.png,dead,1,0,1\n3.png,dead,1,0,1\n", "no number"),
    ],
)
def test_tables_of_a_classifier_that_cannot_be_used(folders: Path, text: str, message: str) -> None:
    classified(folders)
    (folders / "classes.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        evaluate(folders / "classes.csv", folders / "truth.csv", "--task", "classes")


def test_output_that_cannot_be_written(folders: Path) -> None:
    (folders / "report" / "evaluation.json").mkdir(parents=True)
    with pytest.raises(ResourceError, match="cannot be written"):
        evaluate(folders / "out", folders / "truth", "-o", folders / "report")
    assert not list((folders / "report").glob(".*"))


@pytest.mark.data
def test_real_annotations_against_themselves(data: Path, tmp_path: Path) -> None:
    labels = data / "dsb2018" / "labels"
    chosen = sorted(labels.glob("*.png"))[:8]
    for path in chosen:
        tifffile.imwrite(tmp_path / f"{path.stem}.labels.tif", iio.imread(path).astype(np.uint32))
    rows = {row["id"]: row for row in csv.DictReader((data / "dsb2018" / "split.csv").open())}
    with (tmp_path / "list.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["kind", "image", "label"], extrasaction="ignore")
        writer.writeheader()
        for path in chosen:
            row = rows[path.stem]
            image = data / "dsb2018" / row["image"]
            writer.writerow({"kind": row["kind"], "image": str(image), "label": str(path)})
    evaluate(tmp_path, tmp_path / "list.csv", "--by", "kind", "-o", tmp_path / "report")
    found = read_json(tmp_path / "report" / "evaluation.json")
    assert found["total"]["mean_over_pictures"]["mean_ap"] == 1.0
    assert sum(group["files"] for group in found["groups"].values()) == 8
