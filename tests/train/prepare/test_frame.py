"""A run that was stopped or killed goes on, redoes what changed, and never leaves half a file under a final name."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellengine.errors import InputError, LockedError, UsageError
from cellengine.train.prepare.dsb2018 import Dsb2018Options, prepare_dsb2018
from cellengine.train.prepare.frame import Control, Defect, Found, Job, Outcome, run_jobs, unique_names
from cellengine.train.prepare.pictures import SplitOptions
from tests.synthetic import draw_cells
from tests.train.prepare.helpers import names_in, write_kaggle


class Work:
    """Items that write a file each and remember who was done."""

    def __init__(self, folder: Path, count: int = 4) -> None:
        self.folder, self.done = folder, []
        for i in range(count):
            (folder / f"in{i}").parent.mkdir(parents=True, exist_ok=True)
            if not (folder / f"in{i}").exists():
                (folder / f"in{i}").write_text(str(i))
        self.fail: set[str] = set()
        self.sources: tuple[Path, ...] = ()
        self.jobs = [Job(f"item{i}", (folder / f"in{i}",), lambda i=i: self.work(i)) for i in range(count)]

    def work(self, number: int) -> Outcome:
        name = f"item{number}"
        if name in self.fail:
            raise InputError("it is broken")
        self.done.append(name)
        (self.folder / "out" / name).write_text((self.folder / f"in{number}").read_text())
        return Outcome((name,), {"number": number})

    def run(self, identity: str = "a", **control: bool) -> list[str]:
        """Names of the items that were worked on."""
        self.done.clear()
        self.seen: dict[str, Outcome] = {}
        self.defects: list[Defect] = []

        def summarise(outcomes: dict[str, Outcome], defects: list[Defect]) -> list[str]:
            self.seen, self.defects = dict(outcomes), list(defects)
            return ["done"]

        found = Found(tuple(self.jobs), (Defect("lonely", "no mask"),), self.sources)
        self.finished = run_jobs(
            self.folder / "out", {"source": identity}, found, summarise, control=Control(**control), threads=1
        )
        return list(self.done)


def interrupt_after(work: Work, name: str) -> None:
    """Make the item after `name` fail in a way that no run survives."""
    plain = work.work

    def failing(number: int) -> Outcome:
        if work.done and work.done[-1] == name:
            raise OSError("the power is gone")
        return plain(number)

    work.jobs = [Job(job.name, job.inputs, lambda i=i: failing(i)) for i, job in enumerate(work.jobs)]


def test_what_is_done_stays_done(tmp_path: Path) -> None:
    work = Work(tmp_path)
    interrupt_after(work, "item1")
    with pytest.raises(OSError, match="power"):
        work.run()
    assert Work(tmp_path).run() == ["item2", "item3"]


def test_items_are_redone_when_their_input_or_output_changed(tmp_path: Path) -> None:
    work = Work(tmp_path)
    interrupt_after(work, "item2")
    with pytest.raises(OSError, match="power"):
        work.run()
    (tmp_path / "in0").write_text("another text")
    (tmp_path / "out" / "item1").unlink()
    assert Work(tmp_path).run() == ["item0", "item1", "item3"]
    assert (tmp_path / "out" / "item0").read_text() == "another text"


def test_a_bad_item_is_a_defect_and_is_tried_again(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.fail = {"item1"}
    work.run()
    assert set(work.seen) == {"item0", "item2", "item3"}
    assert work.defects == [Defect("lonely", "no mask"), Defect("item1", "it is broken")]
    assert work.finished.defects == 2
    assert work.run() == []
    assert work.finished.was_complete
    assert work.run(restart=True) == ["item0", "item2", "item3"]
    work.fail = {f"item{i}" for i in range(4)}
    with pytest.raises(InputError, match="No item is usable, 5 defects were found; the first: lonely: no mask"):
        work.run(restart=True)


def test_a_finished_run_makes_anew_what_changed_and_nothing_else(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.run()
    assert work.run() == []
    assert work.finished.was_complete
    (tmp_path / "in1").write_text("another text")
    assert work.run() == ["item1"]
    assert not work.finished.was_complete
    assert set(work.seen) == {f"item{i}" for i in range(4)}
    assert (tmp_path / "out" / "item1").read_text() == "another text"
    (tmp_path / "out" / "item2").unlink()
    assert work.run() == ["item2"]
    work.jobs[0] = replace(work.jobs[0], given="other rows")
    assert work.run() == ["item0"]
    del work.jobs[0]
    assert work.run() == []
    assert set(work.seen) == {"item1", "item2", "item3"}
    assert work.run() == []
    assert work.finished.was_complete


def test_work_on_what_changed_goes_on_after_a_kill(tmp_path: Path) -> None:
    Work(tmp_path).run()
    for i in (0, 2):
        (tmp_path / f"in{i}").write_text("another text")
    work = Work(tmp_path)
    interrupt_after(work, "item0")
    with pytest.raises(OSError, match="power"):
        work.run()
    assert Work(tmp_path).run() == ["item2"]


def test_a_table_that_changed_is_summed_up_again(tmp_path: Path) -> None:
    work = Work(tmp_path)
    table = tmp_path / "table.csv"
    for text, complete in (("a", False), ("a", True), ("a,b", False), ("a,b", True)):
        if not table.exists() or table.read_text() != text:
            table.write_text(text)
        work.sources = (table,)
        work.run()
        assert work.finished.was_complete == complete
    assert work.done == []


def test_other_settings_are_refused_and_a_second_run_waits(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.run()
    with pytest.raises(UsageError, match=r'source: "a" then, "b" now.*--restart'):
        work.run("b")
    assert work.run("b", restart=True) != []
    blocked: list[str] = []

    def second(number: int) -> Outcome:
        with pytest.raises(LockedError) as caught:
            Work(tmp_path).run("b")
        blocked.append(str(caught.value))
        return Outcome((), {"number": number})

    work.jobs = [Job("item0", (), lambda: second(0))]
    work.run("b", restart=True)
    assert len(blocked) == 1


PROGRAM = """
import sys
from pathlib import Path
from cellengine.train.prepare.dsb2018 import Dsb2018Options, prepare_dsb2018
from cellengine.train.prepare.pictures import SplitOptions
print("begun", flush=True)
prepare_dsb2018(Path(sys.argv[1]), Path(sys.argv[2]), Dsb2018Options(SplitOptions(0.3)))
"""


def test_killed_anywhere_it_ends_with_the_same_files(tmp_path: Path) -> None:
    for i in range(12):
        write_kaggle(tmp_path / "in", f"picture{i:02}", *draw_cells((256, 256), 30, seed=i))
    prepare_dsb2018(tmp_path / "in", tmp_path / "whole", Dsb2018Options(SplitOptions(0.3)))
    seed = int(os.environ.get("CELLENGINE_TEST_SEED", time.time_ns() % 10**6))
    print(f"CELLENGINE_TEST_SEED={seed}")  # noqa: T201  shown when the test fails
    draw = random.Random(seed)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "in"), str(tmp_path / "killed")],
            stdout=subprocess.PIPE, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(draw.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    prepare_dsb2018(tmp_path / "in", tmp_path / "killed", Dsb2018Options(SplitOptions(0.3)))
    assert names_in(tmp_path / "killed") == names_in(tmp_path / "whole")
    for name in names_in(tmp_path / "whole"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_preparing_needs_no_torch() -> None:
    names = ("dsb2018", "wbc", "volumes", "cellspotting", "crops")
    program = "import sys\n" + "".join(f"import cellengine.cli.preparation.{name}\n" for name in names)
    program += "print([name for name in ('torch', 'monai') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@given(st.lists(st.sampled_from(["a", "a-2", "b"]), max_size=8))
def test_names_become_different_and_the_first_stays(wanted: list[str]) -> None:
    found = unique_names(wanted)
    assert len(set(found)) == len(wanted)
    assert all(name.startswith(want) for name, want in zip(found, wanted, strict=True))
    assert all(found[wanted.index(name)] == name for name in set(wanted) if name != "a-2")
