"""`cellengine infer` as its users meet it: what they may get wrong, with its exit code and its one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from cellengine.cli import main
from cellengine.io import read_table
from tests.engine.blobs import write_blob_model
from tests.engine.classes import write_class_model
from tests.engine.conftest import small_spec, write_tiny_model
from tests.synthetic import draw_cells

FP32 = ("--backend", "onnxruntime", "--precision", "fp32")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_model(folder / "colour.onnx")
    write_tiny_model(folder / "grey.onnx", small_spec(channels=("gray",)))
    write_tiny_model(folder / "volume.onnx", small_spec(axes="ZYX", tile=(8, 32, 32), divisor=(1, 4, 4),
                                                        receptive_field=(2, 8, 8), halo=(2, 8, 8)))  # fmt: skip
    return folder


@pytest.fixture
def grey(models: Path) -> tuple[str, ...]:
    return ("-m", str(models / "grey.onnx"), *FP32)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """`cellengine infer ...` in an empty folder, through the function that the installed program calls."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CELLENGINE_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(("infer", *arguments))
        assert isinstance(stop.value.code, int)
        return Done(stop.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return write_picture(tmp_path / "cells.png", seed=0)


def write_picture(path: Path, seed: int = 0, shape: tuple[int, int] = (48, 40)) -> Path:
    Image.fromarray(draw_cells(shape, 12, seed)[0]).save(path)
    return path


def expect(done: Done, code: int, *says: str) -> None:
    """The exit code, and one line that says what was found and what to do."""
    assert (done.code, done.err.count("\n")) == (code, 1), done
    assert done.err.startswith("error: ")
    for text in says:
        assert text in done.err


def outputs(folder: Path) -> dict[str, bytes]:
    """Every file of a finished run but the lock."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def test_one_picture_gives_labels_table_overlay_and_run(call: Call, picture: Path, grey: tuple[str, ...]) -> None:
    done = call("cells.png", *grey, "-o", "out")
    assert (done.code, done.err) == (0, "")
    assert set(outputs(Path("out"))) == {
        *("cells.labels.tif", "cells.objects.csv", "cells.overlay.png"),
        *("report.html", "report.json", "run.json"),
    }
    labels = tifffile.imread("out/cells.labels.tif")
    assert labels.dtype == np.uint32
    assert labels.shape == (48, 40)
    assert labels.max() == len(read_table("out/cells.objects.csv")["label"]) > 0
    assert f"file 1/1 cells.png: {labels.max()} objects" in done.out
    assert "network" in done.out
    assert "onnxruntime fp32 on cpu" in done.out
    assert f"look at {Path('out/cells.overlay.png')}" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nowhere.png",), 2, ("nowhere.png", "no such file")),
        (("nowhere/*.png",), 2, ("nowhere/*.png", "no images")),
        (("",), 2, ("empty",)),
        (("cells.png", "-m", "nucleii"), 4, ("nucleii", "nuclei")),
        (("cells.png", "-m", "nowhere.onnx"), 2, ("nowhere.onnx", "nuclei")),
        (("cells.png", "--device", "cuda:63"), 5, ("NVIDIA", "--device cpu")),
        (("cells.png", "--device", "toaster"), 2, ("toaster", "cpu")),
        (("cells.png", "--backend", "caffe"), 2, ("caffe", "openvino")),
        (("cells.png", "--precision", "fp8"), 2, ("fp8", "bf16")),
        (("cells.png", "--backend", "openvino", "--precision", "bf16"), 5, ("bf16",)),
        (("cells.png", "--tile", "large"), 2, ("--tile", "large")),
        (("cells.png", "--tile", "30"), 2, ("--tile", "multiples")),
        (("cells.png", "--tile", "0"), 2, ("--tile", "multiples")),
        (("cells.png", "--tile", "64,64,64"), 2, ("--tile", "YX")),
        (("cells.png", "--halo", "wide"), 2, ("--halo", "wide")),
        (("cells.png", "--tile", "64", "--halo", "32"), 2, ("--tile", "at least")),
        (("cells.png", "--channel", "3"), 2, ("no channel", "3")),
        (("cells.png", "--channel", "DAPI"), 2, ("DAPI",)),
        (("cells.png", "--channel", "0,0"), 2, ("--channel",)),
        (("cells.png", "--axes", "ZYX"), 3, ("--axes", "ZYX")),
        (("cells.png", "--axes", "QX"), 3, ("--axes", "QX")),
        (("cells.png", "--batch", "0"), 2, ("--batch",)),
        (("cells.png", "--max-ram", "2"), 2, ("--max-ram", "2GB")),
        (("cells.png", "--max-ram", "10kB"), 5, ("cells.png", "memory")),
        (("cells.png", "-o", "cells.png"), 2, ("is a file",)),
        (("cells.png", "-o", "cells.png/out"), 5, ("cannot be written",)),
    ],
)
def test_what_is_wrong_with_a_command(
    call: Call, picture: Path, grey: tuple[str, ...], arguments: tuple[str, ...], code: int, says: tuple[str, ...]
) -> None:
    before = outputs(Path())
    expect(call(*grey, "-o", "out", *arguments), code, *says)
    after = outputs(Path())
    assert {n for n in after if not n.endswith(".journal.jsonl")} == set(before), "nothing is left behind"


def test_several_pictures_do_not_hide_a_wrong_option(call: Call, grey: tuple[str, ...]) -> None:
    for i in range(2):
        write_picture(Path(f"{i}.png"))
    expect(call("0.png", "1.png", *grey, "-o", "out", "--tile", "30"), 2, "--tile")


@pytest.mark.parametrize("content", [b"", b"\x08\x01nonsense", b"GIF89a" * 100])
def test_a_corrupt_model_is_refused_before_anything_else(call: Call, picture: Path, content: bytes) -> None:
    Path("broken.onnx").write_bytes(content)
    expect(call("cells.png", "-m", "broken.onnx", "-o", "out"), 4, "broken.onnx")
    assert not Path("out").exists()


def test_a_truncated_model_is_refused(call: Call, picture: Path, models: Path) -> None:
    whole = (models / "grey.onnx").read_bytes()
    Path("broken.onnx").write_bytes(whole[: len(whole) // 2])
    expect(call("cells.png", "-m", "broken.onnx", "-o", "out"), 4, "broken.onnx")


def cut(source: Path, to: Path) -> None:
    data = source.read_bytes()
    to.write_bytes(data[: len(data) * 2 // 3])


def test_damaged_and_foreign_files(call: Call, picture: Path, grey: tuple[str, ...]) -> None:
    tifffile.imwrite("whole.tif", np.random.default_rng(0).integers(0, 255, (48, 40), np.uint8))
    cut(Path("whole.tif"), Path("cut.tif"))
    cut(picture, Path("cut.png"))
    Path("text.tif").write_text("these are no pixels\n" * 20)
    Path("misnamed.png").write_bytes(Path("whole.tif").read_bytes())
    Path("notes.txt").write_text("label the left half")
    Path("nothing.tif").write_bytes(b"")
    for name in ("cut.tif", "cut.png", "text.tif", "misnamed.png", "notes.txt", "nothing.tif"):
        expect(call(name, *grey, "-o", f"out-{name}"), 3, name)
        assert not [n for n in outputs(Path(f"out-{name}")) if not n.startswith(".journal")]


def test_nan_is_refused_or_counted(call: Call, grey: tuple[str, ...]) -> None:
    image = draw_cells((48, 40), 12, 0)[0].astype(np.float32)
    image[3, 4:7] = np.nan, np.inf, -np.inf
    tifffile.imwrite("nan.tif", image)
    expect(call("nan.tif", *grey, "-o", "out"), 3, "3 values", "--nan zero")
    done = call("nan.tif", *grey, "-o", "zero", "--nan", "zero")
    assert done.code == 0
    assert "warning: nan.tif: 3 values that are NaN or infinite were taken as 0" in done.err
    assert json.loads(Path("zero/run.json").read_text())["files"]["nan.tif"]["not_finite"] == 3
    image[3, 4:7] = 0
    tifffile.imwrite("nan.tif", image)
    assert call("nan.tif", *grey, "-o", "filled").code == 0
    for name in ("nan.labels.tif", "nan.objects.csv"):
        assert Path("zero", name).read_bytes() == Path("filled", name).read_bytes()


def test_a_constant_picture_holds_nothing(call: Call, grey: tuple[str, ...]) -> None:
    Image.fromarray(np.full((40, 50), 7, np.uint8)).save("flat.png")
    done = call("flat.png", *grey, "-o", "out")
    assert done.code == 0
    assert "0 objects" in done.out
    assert not tifffile.imread("out/flat.labels.tif").any()
    header, *rows = Path("out/flat.objects.csv").read_text().splitlines()
    assert header.startswith("label,score,centroid_y_px,centroid_x_px,bbox_y0")
    assert rows == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (2, 3), (37, 101), (64, 64), (65, 127)])
def test_odd_sizes(call: Call, grey: tuple[str, ...], shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 60_000, shape, np.uint16)
    tifffile.imwrite("odd.tif", image.astype(">u2"), byteorder=">")
    assert call("odd.tif", *grey, "-o", "out").code == 0
    assert tifffile.imread("out/odd.labels.tif").shape == shape
    assert call("odd.tif", *grey, "-o", "tiled", "--tile", "64", "--halo", "exact", "--batch", "3").code == 0
    assert np.array_equal(tifffile.imread("tiled/odd.labels.tif"), tifffile.imread("out/odd.labels.tif"))


def test_axes_and_channels_are_asked_for(call: Call, models: Path, grey: tuple[str, ...]) -> None:
    stack = np.stack([draw_cells((48, 40), 12, seed)[0] for seed in range(3)])
    tifffile.imwrite("stack.tif", stack, metadata=None, photometric="minisblack")
    tifffile.imwrite("colour.tif", np.moveaxis(stack, 0, -1), photometric="rgb")
    expect(call("stack.tif", *grey, "-o", "a"), 3, "--axes")
    assert call("stack.tif", *grey, "-o", "b", "--axes", "TYX").code == 0
    assert sorted(set(read_table("b/stack.objects.csv")["t"])) == [0, 1, 2]
    assert tifffile.imread("b/stack.labels.tif").shape == (3, 48, 40)
    assert call("stack.tif", *grey, "-o", "c", "--axes", "TYX", "--timepoint", "1").code == 0
    one = tifffile.imread("c/stack.labels.tif")
    many = tifffile.imread("b/stack.labels.tif")
    assert np.array_equal(one > 0, many[1] > 0), "a plane does not depend on its neighbours"
    expect(call("stack.tif", *grey, "-o", "d", "--axes", "TYX", "--timepoint", "3"), 2, "--timepoint", "0 to 2")
    expect(call("colour.tif", *grey, "-o", "e"), 3, "colour picture", "--channel")
    assert call("colour.tif", *grey, "-o", "f", "--channel", "1").code == 0
    assert np.array_equal(tifffile.imread("f/colour.labels.tif") > 0, many[1] > 0)
    volume = ("-m", str(models / "volume.onnx"), *FP32)
    expect(call("colour.tif", *volume, "-o", "g"), 3, "ZYX")
    done = call("stack.tif", *volume, "-o", "h", "--axes", "ZYX")
    assert done.code == 0
    assert "volume_px" in Path("h/stack.objects.csv").read_text().splitlines()[0]


def test_datasets_of_a_file(call: Call, grey: tuple[str, ...]) -> None:
    import h5py

    with h5py.File("two.h5", "w") as file:
        for i, name in enumerate(("left", "right")):
            file[name] = draw_cells((48, 40), 12, i)[0]
    expect(call("two.h5", *grey, "-o", "a", "--axes", "YX"), 3, "left", "right", "--dataset")
    for name in ("left", "right"):
        assert call("two.h5", *grey, "-o", name, "--axes", "YX", "--dataset", name).code == 0
    assert not np.array_equal(tifffile.imread("left/two.labels.tif"), tifffile.imread("right/two.labels.tif"))
    expect(call("two.h5", *grey, "-o", "left", "--axes", "YX", "--dataset", "right"), 2, "another run", "--restart")


def test_folders(call: Call, grey: tuple[str, ...]) -> None:
    Path("plate/well").mkdir(parents=True)
    expect(call("plate", *grey, "-o", "out"), 2, "plate", "no images")
    write_picture(Path("plate/a.png"), 1)
    write_picture(Path("plate/well/a.png"), 2)
    tifffile.imwrite("plate/well/b.tif", draw_cells((48, 40), 12, 3)[0])
    Image.fromarray(draw_cells((48, 40), 12, 4)[0]).save("plate/well/b.png")
    assert call("plate", *grey, "-o", "out").code == 0
    found = {name for name in outputs(Path("out")) if name.endswith(".labels.tif")}
    assert found == {
        str(Path(n)) for n in ("a.labels.tif", "well/a.labels.tif", "well/b.png.labels.tif", "well/b.tif.labels.tif")
    }
    listed = json.loads(Path("out/run.json").read_text())["files"]
    assert all((Path("out") / name).is_file() for record in listed.values() for name in record["outputs"])


def test_inputs_of_one_name_from_two_folders_are_two_inputs(call: Call, grey: tuple[str, ...]) -> None:
    for i in (1, 2):
        Path(str(i)).mkdir()
        write_picture(Path(f"{i}/a.png"), seed=i)
    done = call("1/a.png", "2/a.png", *grey, "-o", "out")
    assert done.code == 0
    assert "in 2 files" in done.out
    for i in (1, 2):
        assert call(f"{i}/a.png", *grey, "-o", f"alone{i}").code == 0
        alone = tifffile.imread(f"alone{i}/a.labels.tif")
        assert np.array_equal(tifffile.imread(f"out/{i}/a.png.labels.tif"), alone)


def test_a_finished_run_is_left_as_it_is(call: Call, picture: Path, grey: tuple[str, ...]) -> None:
    assert call("cells.png", *grey, "-o", "out").code == 0
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in Path("out").iterdir()}
    done = call("cells.png", *grey, "-o", "out")
    assert (done.code, done.err) == (0, "")
    assert "already holds this run" in done.out
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in Path("out").iterdir()} == before


def test_another_run_is_refused_with_what_differs(
    call: Call, picture: Path, models: Path, grey: tuple[str, ...]
) -> None:
    assert call("cells.png", *grey, "-o", "out").code == 0
    before = outputs(Path("out"))
    write_picture(Path("other.png"), seed=5)
    colour = ("-m", str(models / "colour.onnx"), *FP32)
    expect(call("other.png", *grey, "-o", "out"), 2, "another run", "inputs", "other.png", "--restart")
    expect(call("cells.png", *colour, "-o", "out"), 2, "model", "--restart")
    expect(call("cells.png", *grey, "-o", "out", "--tile", "64"), 2, "settings", "--restart")
    write_picture(picture, seed=6)
    expect(call("cells.png", *grey, "-o", "out"), 2, "cells.png has changed", "--restart")
    assert outputs(Path("out")) == before
    assert call("cells.png", *grey, "-o", "out", "--restart").code == 0
    assert outputs(Path("out"))["cells.labels.tif"] != before["cells.labels.tif"]


def test_one_bad_file_does_not_spoil_the_others(call: Call, grey: tuple[str, ...]) -> None:
    Path("in").mkdir()
    for i in range(3):
        write_picture(Path(f"in/{i}.png"), seed=i)
    mended = Path("in/1.png").read_bytes()
    Path("in/1.png").write_bytes(mended[:100])
    expect(call("in", *grey, "-o", "out"), 6, "1 of 3", "1.png", "failures.csv")
    failures = read_table("out/failures.csv")
    assert list(failures["file"]) == ["1.png"]
    assert list(failures["error"]) == ["InputError"]
    finished = {name: data for name, data in outputs(Path("out")).items() if name.endswith((".tif", ".csv", ".png"))}
    assert {"0.labels.tif", "2.labels.tif"} <= set(finished)
    assert "1.labels.tif" not in finished
    assert not json.loads(Path("out/run.json").read_text())["complete"]

    expect(call("in", *grey, "-o", "out"), 6, "1 of 3")
    Path("in/1.png").write_bytes(mended)
    times = {name: Path("out", name).stat().st_mtime_ns for name in ("0.labels.tif", "2.labels.tif")}
    done = call("in", *grey, "-o", "out")
    assert (done.code, done.err) == (0, "")
    assert not Path("out/failures.csv").exists()
    assert {name: Path("out", name).stat().st_mtime_ns for name in times} == times, "the others are not done again"
    assert json.loads(Path("out/run.json").read_text())["complete"]
    assert call("in", *grey, "-o", "fresh").code == 0
    kept = (".labels.tif", ".objects.csv", ".overlay.png")
    resumed, fresh = ({n: d for n, d in outputs(Path(f)).items() if n.endswith(kept)} for f in ("out", "fresh"))
    assert resumed == fresh


def test_stop_at_the_first_bad_file(call: Call, grey: tuple[str, ...]) -> None:
    for i in range(3):
        write_picture(Path(f"{i}.png"), seed=i)
    cut(Path("0.png"), Path("1.png"))
    names = ("0.png", "1.png", "2.png")
    expect(call(*names, *grey, "-o", "out", "--on-error", "stop"), 3, "1.png")
    assert Path("out/0.labels.tif").exists()
    assert not Path("out/2.labels.tif").exists()


def test_labels_as_ome_zarr(call: Call, picture: Path, grey: tuple[str, ...]) -> None:
    import zarr

    assert call("cells.png", *grey, "-o", "tif").code == 0
    assert call("cells.png", *grey, "-o", "zarr", "--format", "ome-zarr").code == 0
    stored = np.asarray(zarr.open_group("zarr/cells.labels.ome.zarr", mode="r")["labels/cells/0"])
    assert np.array_equal(stored, tifffile.imread("tif/cells.labels.tif"))


def test_outputs_in_the_folder_of_the_inputs_are_not_taken_for_inputs(call: Call, grey: tuple[str, ...]) -> None:
    Path("in").mkdir()
    write_picture(Path("in/a.png"))
    assert call("in", *grey, "-o", "in").code == 0
    assert "already holds this run" in call("in", *grey, "-o", "in").out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize("name", [".cells.objects.csv.partial", ".run.json.partial"])
def test_a_full_disk_is_said_and_the_same_command_finishes(
    call: Call, picture: Path, grey: tuple[str, ...], name: str
) -> None:
    Path("out").mkdir()
    Path("out", name).symlink_to("/dev/full")
    expect(call("cells.png", *grey, "-o", "out"), 5, "disk is full")
    assert not Path("out", name[1:].removesuffix(".partial")).exists()
    Path("out", name).unlink(missing_ok=True)
    assert call("cells.png", *grey, "-o", "out").code == 0
    assert call("cells.png", *grey, "-o", "fresh").code == 0
    assert set(outputs(Path("out"))) == set(outputs(Path("fresh")))
    for table in ("cells.labels.tif", "cells.objects.csv"):
        assert Path("out", table).read_bytes() == Path("fresh", table).read_bytes()


def test_absent_chunks_of_a_zarr_are_counted(call: Call, grey: tuple[str, ...]) -> None:
    import zarr

    stored = zarr.create_array("gaps.zarr", shape=(64, 64), chunks=(32, 32), dtype="u1", dimension_names=("y", "x"))
    stored[:32] = draw_cells((32, 64), 12, 0)[0]
    done = call("gaps.zarr", *grey, "-o", "out")
    assert done.code == 0
    assert done.err.startswith("warning: gaps.zarr: 2 stored chunks are absent")
    assert json.loads(Path("out/run.json").read_text())["files"]["gaps.zarr"]["warnings"]
    assert Path("out/gaps.labels.ome.zarr").is_dir(), "labels of a Zarr are a Zarr"
    expect(call("gaps.zarr", *grey, "-o", "strict", "--missing", "error"), 3, "2 stored chunks", "--missing warn")


def test_a_voxel_size_is_asked_for_and_taken(call: Call, tmp_path: Path, models: Path) -> None:
    spec = small_spec(axes="ZYX", tile=(8, 32, 32), divisor=(1, 4, 4), receptive_field=(2, 8, 8), halo=(2, 8, 8),
                      voxel_size_um=(2.0, 0.5, 0.5), channels=("gray",))  # fmt: skip
    write_tiny_model(tmp_path / "volume.onnx", spec)
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([draw_cells((40, 48), 6, s)[0] for s in range(6)]))
    stack = ("stack.tif", "-m", "volume.onnx", "-o", "out", "--axes", "ZYX", *FP32)
    expect(call(*stack), 3, "found no voxel size", "z,y,x = 2,0.5,0.5 um", "--voxel-size z,y,x")
    expect(call(*stack, "--voxel-size", "2,x,1"), 2, "--voxel-size", "e.g. 2,0.5,0.5")
    assert call(*stack, "--voxel-size", "2,0.25,0.25").code == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())["files"]["stack.tif"]
    assert (record["shape"], record["network_shape"]) == ([6, 40, 48], [6, 20, 24])


def test_cells_are_found_then_classified_and_crops_alone(call: Call, tmp_path: Path) -> None:
    write_blob_model(tmp_path / "blobs.onnx")
    write_class_model(tmp_path / "kinds.onnx", task="classification", tile=(12, 12), divisor=(1, 1))
    write_class_model(tmp_path / "map.onnx")
    Image.fromarray(draw_cells((90, 100), 12, seed=5)[0]).save(tmp_path / "a.png")
    done = call("a.png", "-m", "blobs.onnx", "-o", "out", "--then", "kinds.onnx", *FP32)
    assert done.code == 0
    table = read_table(tmp_path / "out" / "a.objects.csv")
    assert set(table["class"]) <= {"dark", "middle", "bright"}
    assert f"{len(table['class'])} objects (dark " in done.out
    done = call("a.png", "-m", "kinds.onnx", "-o", "crops", *FP32)
    assert (done.code, "classes.csv" in done.out) == (0, True)
    done = call("a.png", "-m", "map.onnx", "-o", "classes", *FP32)
    assert (done.code, "dark " in done.out, "classes of 1 file" in done.out) == (0, True, True)
    expect(call("a.png", "-m", "blobs.onnx", "-o", "x", "--then", "map.onnx"), 2, "--then levels", "classifier")
    expect(call("a.png", "-m", "kinds.onnx", "-o", "x", "--then", "kinds.onnx"), 2, "--then needs a model that finds")
