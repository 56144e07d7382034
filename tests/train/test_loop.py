"""The loop: it learns, it resumes to the same bits, it says where it broke."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from cellengine.errors import InputError, ModelError, UsageError
from cellengine.models.checkpoint import load_checkpoint, save_checkpoint
from cellengine.train.config import TrainConfig
from cellengine.train.loop import train
from tests.synthetic import write_annotated
from tests.train.test_data import tiny_config

SHORT = (
    "batch=4",
    "validate_every=1",
    "preview_every=2",
    "optimizer.warmup_steps=2",
    "data.workers=0",
    "precision=fp32",
)


def run(config: TrainConfig, folder: Path, *, resume: bool = False, init: Path | None = None) -> list[str]:
    lines: list[str] = []
    train(config, folder, resume=resume, init=init, echo=lines.append)
    return lines


def test_a_run_leaves_what_it_promises(tmp_path: Path) -> None:
    config = tiny_config(write_annotated(tmp_path / "data", 4), *SHORT)
    lines = run(config, tmp_path / "run")
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"last.pt", "best.pt", "metrics.csv", "curves.png", "preview_0002.png", "tensorboard"} <= names
    assert not [n for n in names if "partial" in n]
    assert len([line for line in lines if line.startswith("epoch")]) == 2
    header, *rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert {"epoch", "loss_total", "val_mean_ap"} <= set(header.split(","))
    assert len(rows) == 2


def test_it_learns_a_picture_by_heart(tmp_path: Path) -> None:
    settings = (
        "epochs=6",
        "data.samples_per_epoch=64",
        "optimizer.rate=0.01",
        "optimizer.ema_decay=0.0",
        "validate_every=6",
        "preview_every=6",
    )
    plain = ("augment.affine_probability=0", "augment.intensity_probability=0", "augment.gamma_probability=0")
    config = tiny_config(write_annotated(tmp_path / "data", 2), *SHORT, *settings, *plain)
    run(config, tmp_path / "run")
    header, *rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    at = header.split(",").index("loss_total")
    losses = [float(row.split(",")[at]) for row in rows]
    assert losses[-1] < 0.5 * losses[0]


def test_killed_and_resumed_gives_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL at a moment nobody chose; the resumed run ends with the bits of one that was never stopped."""
    data = write_annotated(tmp_path / "data", 4)
    config = tiny_config(data, *SHORT, "epochs=4", "data.samples_per_epoch=16", "optimizer.schedule=plateau")
    run(config, tmp_path / "whole")
    (tmp_path / "config.json").write_text(config.to_json())
    code = (
        "from pathlib import Path; from cellengine.train.config import TrainConfig;"
        "from cellengine.train.loop import train;"
        f"config = TrainConfig.from_json(Path({str(tmp_path / 'config.json')!r}).read_text());"
        f"train(config, Path({str(tmp_path / 'killed')!r}), resume=True, init=None, echo=print)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    last = tmp_path / "killed" / "last.pt"
    while not last.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert load_checkpoint(last)["epoch"] >= 1
    run(config, tmp_path / "killed", resume=True)
    whole, killed = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "killed"))
    for name in ("model", "average"):
        assert all(torch.equal(whole[name][k], killed[name][k]) for k in whole[name])
    assert whole["rate_factor"] == killed["rate_factor"]


def test_loss_that_is_no_number_names_the_step(tmp_path: Path) -> None:
    config = tiny_config(
        write_annotated(tmp_path / "data", 4), *SHORT, "optimizer.rate=1e30", "optimizer.gradient_clip=0.0"
    )
    with pytest.raises(InputError, match=r"The loss is (nan|inf) at step \d+ \(epoch \d+\)"):
        run(config, tmp_path / "run")


def test_a_run_is_not_overwritten_nor_continued_with_other_settings(tmp_path: Path) -> None:
    config = tiny_config(write_annotated(tmp_path / "data", 4), *SHORT, "epochs=1")
    run(config, tmp_path / "run")
    with pytest.raises(UsageError, match="add --resume"):
        run(config, tmp_path / "run")
    other = tiny_config(tmp_path / "data", *SHORT, "epochs=1", "seed=2")
    with pytest.raises(UsageError, match=r"other settings \(seed\)"):
        run(other, tmp_path / "run", resume=True)


def test_a_start_takes_what_fits_and_says_what_it_left_out(tmp_path: Path) -> None:
    data = write_annotated(tmp_path / "data", 4)
    run(tiny_config(data, *SHORT, "epochs=1"), tmp_path / "run")
    wider = tiny_config(data, *SHORT, "epochs=1", "model.widths=[8, 24]")
    lines = run(wider, tmp_path / "other", init=tmp_path / "run" / "best.pt")
    assert any("are taken as a start" in line for line in lines)
    assert any("left out, they start anew: down.1.0.weight" in line for line in lines)
    torch.save({"stem.weight": torch.zeros(3)}, tmp_path / "foreign.pt")
    with pytest.raises(ModelError, match="nothing fits by name and shape"):
        run(wider, tmp_path / "third", init=tmp_path / "foreign.pt")


def test_a_checkpoint_with_code_inside_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"model": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match="nothing was executed"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_cut_checkpoint_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"model": {"w": torch.zeros(1000)}})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ModelError, match="not a checkpoint"):
        load_checkpoint(path)
