"""`cellengine watch` as a user meets it: every picture once, whatever happens to the program."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from cellengine.engine.checkpoint import open_checkpoint, scratch_folder
from cellengine.engine.job import Job, label_file
from cellengine.engine.journal import hold_output
from cellengine.errors import DeviceError, LockedError, UsageError
from cellengine.io import read_table
from cellengine.watch import worker
from tests.synthetic import draw_cells
from tests.watch.conftest import Bench, cut, objects_in

PICTURES, KILLS = 24, 3
"""small here; `benchmarks/watch_exactly_once.py` has the long version"""


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


def test_what_is_there_is_labelled_and_listed(bench: Bench) -> None:
    bench.drop("b.tif", 1)
    time.sleep(0.02)
    bench.drop("plate/a.tif", 2)
    time.sleep(0.02)
    bench.drop("a.tif", 3)
    (bench.folder / "notes.txt").write_text("no picture")
    said = bench.once()
    places = [said.index(f"\n{name}: ") for name in ("b.tif", "plate/a.tif", "a.tif")]
    assert places == sorted(places), "in order of arrival"
    table = read_table(bench.output / "pictures.csv")
    assert sorted(table["file"]) == ["a.tif", "b.tif", "plate/a.tif"]
    for stem, count in zip(table["results"], table["objects"], strict=True):
        assert objects_in(bench.output / f"{stem}.labels.tif") == count > 0
        assert (bench.output / f"{stem}.overlay.png").is_file()
    assert not (bench.output / "failures.csv").exists()


def test_a_second_start_labels_only_what_is_new(bench: Bench) -> None:
    bench.drop("a.tif")
    bench.once()
    before = (bench.output / "a.labels.tif").stat().st_mtime_ns
    bench.drop("b.tif")
    said = bench.once()
    assert "\nb.tif: " in said
    assert "\na.tif: " not in said
    assert (bench.output / "a.labels.tif").stat().st_mtime_ns == before


def test_exactly_once_through_kills(bench: Bench) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    chance = random.Random(seed)
    names = [f"{i % 3}/cells_{i}.tif" for i in range(PICTURES)]
    process = bench.start()
    kills = set(chance.sample(range(5, PICTURES), KILLS))
    for i, name in enumerate(names):
        bench.drop(name, i)
        time.sleep(chance.uniform(0, 0.02))
        if i in kills:
            labelled = bench.done()
            wait_for(lambda: bench.done() > labelled)  # noqa: B023 - called at once
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            process.wait()
            process = bench.start()
    wait_for(lambda: bench.done() == PICTURES)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    table = read_table(bench.output / "pictures.csv")
    assert sorted(table["file"]) == sorted(names), "each once, none missing"
    assert len(list(bench.output.rglob("*.labels.tif"))) == PICTURES
    assert not list(bench.output.rglob("*.partial"))
    for name, stem, count in zip(table["file"], table["results"], table["objects"], strict=True):
        assert objects_in(bench.output / f"{stem}.labels.tif") == count, name


def test_a_picture_that_is_still_written_waits(bench: Bench) -> None:
    data = bench.drop("../whole.tif").read_bytes()
    seen: list[int] = []

    def write_slowly() -> None:
        with (bench.folder / "slow.tif").open("wb") as file:
            for part in np.array_split(np.frombuffer(data, np.uint8), 10):
                file.write(part.tobytes())
                file.flush()
                started.set()
                time.sleep(0.1)
                seen.append(bench.done())

    started = threading.Event()
    writer = threading.Thread(target=write_slowly)
    writer.start()
    started.wait()
    said = bench.once(settle_s=0.5)
    writer.join()
    assert seen == [0] * 10
    assert "failed" not in said
    assert bench.done() == 1


def test_a_damaged_picture_is_set_aside_and_tried_again_when_it_is_mended(bench: Bench) -> None:
    whole = bench.drop("good.tif")
    cut(whole, bench.folder / "bad.tif")
    said = bench.once()
    assert said.count("bad.tif: failed, tried again") == 2
    assert said.count("bad.tif: set aside") == 1
    assert "exit 6: 1 pictures were set aside, 1 are labelled" in said
    failures = read_table(bench.output / "failures.csv")
    assert list(failures["file"]) == ["bad.tif"]
    assert list(failures["attempts"]) == [3]
    assert "incomplete" in failures["reason"][0]
    assert "bad.tif: " not in bench.once(), "it is left alone"
    (bench.folder / "bad.tif").write_bytes(whole.read_bytes())
    assert "exit 6" not in bench.once()
    assert not (bench.output / "failures.csv").exists()
    assert bench.done() == 2


def test_two_names_of_one_stem_have_two_results(bench: Bench) -> None:
    bench.drop("a.tif", 1)
    bench.drop("A.tiff", 2)
    bench.once()
    stems = set(read_table(bench.output / "pictures.csv")["results"])
    assert len({stem.lower() for stem in stems}) == 2
    assert all((bench.output / f"{stem}.labels.tif").is_file() for stem in stems)


def test_a_zarr_folder_is_one_picture(bench: Bench) -> None:
    where = str(bench.folder / "stack.zarr")
    stored = zarr.create_array(where, shape=(64, 64), chunks=(16, 16), dtype="u1", dimension_names=("y", "x"))
    stored[:] = draw_cells((64, 64), 12, 0)[0]
    bench.once()
    assert bench.done() == 1
    assert (bench.output / "stack.labels.ome.zarr").is_dir()


def test_the_files_of_an_ome_series_are_one_picture(bench: Bench) -> None:
    names = ["series_z0.ome.tif", "series_z1.ome.tif"]
    for seed, name in enumerate(names):
        plane = draw_cells((48, 40), 8, seed)[0]
        tifffile.imwrite(bench.folder / name, plane, description=_series_xml(names), metadata=None)
    elsewhere = (bench.folder / names[1]).rename(bench.folder.parent / names[1])
    said = bench.once()
    assert "set aside: series_z0.ome.tif: waits for 1 of 2 files: series_z1.ome.tif" in said
    assert bench.done() == 0
    elsewhere.rename(bench.folder / names[1])
    bench.once()
    table = read_table(bench.output / "pictures.csv")
    assert list(table["file"]) == [names[0]]
    assert tifffile.imread(bench.output / f"{table['results'][0]}.labels.tif").shape == (2, 48, 40)
    bench.once()
    assert bench.done() == 1


def _series_xml(names: list[str]) -> str:
    data = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{z:032x}</UUID></TiffData>'
        for z, name in enumerate(names)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:' + "0" * 32 + '">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="40" SizeY="48" '
        f'SizeZ="{len(names)}" SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}'
        "</Pixels></Image></OME>"
    )


def test_two_watchers_exclude_each_other(bench: Bench) -> None:
    with hold_output(bench.output), pytest.raises(LockedError, match="Another run is writing"):
        bench.once()


def test_other_work_in_the_same_output_is_refused(bench: Bench) -> None:
    bench.drop("a.tif")
    bench.once()
    with pytest.raises(UsageError, match=r"settings.*choose another -o"):
        bench.once(axes="YX")
    (bench.output.parent / "third").mkdir()
    (bench.output.parent / "third" / "run.json").write_text("{}")
    bench.output = bench.output.parent / "third"
    with pytest.raises(UsageError, match="holds a run of `cellengine infer`"):
        bench.once()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_disk_is_waited_for(bench: Bench) -> None:
    bench.drop("a.tif")
    bench.output.mkdir()
    (bench.output / ".a.objects.csv.partial").symlink_to("/dev/full")
    said = bench.once()
    assert "paused: " in said
    assert "disk is full" in said
    assert "goes on" in said
    assert bench.done() == 1
    assert not (bench.output / "failures.csv").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_disk_too_full_for_the_tables_is_waited_for(bench: Bench) -> None:
    bench.drop("a.tif")
    bench.output.mkdir()
    (bench.output / ".pictures.csv.partial").symlink_to("/dev/full")
    said = bench.once()
    assert said.index("paused: ") < said.index("goes on")
    assert list(read_table(bench.output / "pictures.csv")["file"]) == ["a.tif"]


def break_device(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def break_it(job: Job, *work: Any, **how: Any) -> Any:
        if job.name in names:
            raise DeviceError(f"{job.name}: the device is lost.")
        return label_file(job, *work, **how)

    monkeypatch.setattr(worker, "label_file", break_it)


def test_a_picture_that_the_device_fails_with_does_not_hold_up_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.drop("a.tif")
    time.sleep(0.02)
    bench.drop("b.tif")
    break_device(monkeypatch, "a.tif")
    said = bench.once()
    assert "a.tif: set aside: a.tif: the device is lost." in said
    assert bench.done() == 1


def test_a_broken_device_ends_the_watch_and_blames_no_picture(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.drop("a.tif")
    bench.drop("b.tif")
    with monkeypatch.context() as broken:
        break_device(broken, "a.tif", "b.tif")
        for _ in range(2):
            with pytest.raises(DeviceError):
                bench.once()
    bench.once()
    assert bench.done() == 2


def test_a_picture_that_was_replaced_in_the_middle_starts_over(bench: Bench) -> None:
    """What was kept of the earlier picture is of no use, and must not stop the later one for good."""
    bench.drop("a.tif")
    scratch = scratch_folder(bench.output / "a")
    open_checkpoint(scratch, "a.tif", "some run", {"bytes": 1, "changed_ns": 1}, {"slot_bytes": 8}, 0).close()
    assert "exit 6" not in bench.once()
    assert bench.done() == 1
    assert not scratch.exists()


def test_what_a_kill_left_behind_a_finished_picture_is_removed(bench: Bench) -> None:
    bench.drop("a.tif")
    bench.once()
    scratch = scratch_folder(bench.output / "a")
    scratch.mkdir()
    (scratch / "scores").write_bytes(b"many")
    bench.once()
    assert not scratch.exists()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not tell names of open files")
def test_outputs_are_on_the_disk_before_the_journal_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.drop("plate/a.tif")
    forced: list[tuple[str, int]] = []
    force = os.fsync

    def note(number: int) -> None:
        forced.append((Path(f"/proc/self/fd/{number}").resolve().name, bench.done()))
        force(number)

    monkeypatch.setattr(os, "fsync", note)
    bench.once()
    before = {name for name, done in forced if done == 0}
    assert before >= {"a.labels.tif", "a.overlay.png", "a.objects.csv", "plate", "out"}


def test_results_in_the_watched_folder_are_no_pictures(bench: Bench) -> None:
    bench.drop("a.tif")
    bench.output = bench.folder / "results"
    bench.once()
    bench.once()
    assert bench.done() == 1
