"""The loop: it learns, it resumes to the same bits, it says where it broke."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from cellengine.errors import DeviceError, InputError, Interrupted, ModelError, UsageError
from cellengine.models.checkpoint import load_checkpoint, save_checkpoint
from cellengine.train import loop
from cellengine.train.config import TrainConfig, load_config
from cellengine.train.describe import describe_model
from cellengine.train.loop import train
from cellengine.train.optimizer import set_rate
from cellengine.train.place import Place
from cellengine.train.recipe import Batch, Validation
from cellengine.train.recipes.instances import Instances
from cellengine.train.state import State, new_state
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
    assert {"epoch", "loss_total", "val_mean_ap", "val_loss_total", "val_loss_distance"} <= set(header.split(","))
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


def in_a_process(config: TrainConfig, folder: Path) -> subprocess.Popen[bytes]:
    """A training that can be killed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    (folder.parent / "config.json").write_text(config.to_json())
    code = (
        "from pathlib import Path; from cellengine.train.config import TrainConfig;"
        "from cellengine.train.loop import train;"
        f"config = TrainConfig.from_json(Path({str(folder.parent / 'config.json')!r}).read_text());"
        f"train(config, Path({str(folder)!r}), resume=True)"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def same_weights(first: Path, second: Path) -> None:
    whole, other = load_checkpoint(first / "last.pt"), load_checkpoint(second / "last.pt")
    for name in ("model", "average"):
        assert all(torch.equal(whole[name][k], other[name][k]) for k in whole[name])
    for name in ("rate_factor", "step", "best", "sums"):
        assert whole[name] == other[name]
    losses = [[row["loss_total"] for row in json.loads(saved["history"])] for saved in (whole, other)]
    assert losses[0] == losses[1]


def test_killed_and_resumed_gives_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL at a moment that chance chose; the resumed run ends with the bits of one that was never stopped."""
    data = write_annotated(tmp_path / "data", 4)
    config = tiny_config(data, *SHORT, "epochs=4", "data.samples_per_epoch=16", "optimizer.schedule=plateau")
    run(config, tmp_path / "whole")
    process = in_a_process(config, tmp_path / "stopped" / "run")
    last = tmp_path / "stopped" / "run" / "last.pt"
    while not last.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert load_checkpoint(last)["epoch"] >= 1
    run(config, last.parent, resume=True)
    same_weights(tmp_path / "whole", last.parent)


def test_killed_in_the_middle_of_a_save_the_old_checkpoint_stays(tmp_path: Path) -> None:
    """The process ends when half of the second last.pt is written."""
    config = tiny_config(write_annotated(tmp_path / "data", 4), *SHORT, "epochs=3")
    run(config, tmp_path / "whole")
    (tmp_path / "config.json").write_text(config.to_json())
    code = (
        "import io, os, sys; from pathlib import Path; import torch;"
        "from cellengine.train.config import TrainConfig; from cellengine.train.loop import train\n"
        "whole, saves = torch.save, []\n"
        "def save(state, file):\n"
        "    buffer = io.BytesIO(); whole(state, buffer); saves.append('epoch' in state and 'step' in state)\n"
        "    if sum(saves) == 2:\n"
        "        file.write(buffer.getvalue()[: buffer.tell() // 2]); file.flush(); os._exit(9)\n"
        "    file.write(buffer.getvalue())\n"
        "torch.save = save\n"
        f"here = Path({str(tmp_path)!r})\n"
        "train(TrainConfig.from_json((here / 'config.json').read_text()), here / 'cut')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (tmp_path / "cut" / ".last.pt.partial").stat().st_size > 0
    assert load_checkpoint(tmp_path / "cut" / "last.pt")["epoch"] == 1
    run(config, tmp_path / "cut", resume=True)
    same_weights(tmp_path / "whole", tmp_path / "cut")


def test_stopped_in_the_middle_of_an_epoch_goes_on_from_that_step(tmp_path: Path) -> None:
    """Ctrl-C after a step that chance chose: last.pt holds that step, and the end is the same to the bit."""
    data = write_annotated(tmp_path / "data", 4)
    config = tiny_config(data, *SHORT, "epochs=2", "data.samples_per_epoch=24", "data.workers=1")
    run(config, tmp_path / "whole")
    chosen, steps = random.randint(1, 11), iter(range(1, 100))

    class Interrupting(Instances):
        def losses(self, model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
            if model.training and next(steps) == chosen:
                signal.raise_signal(signal.SIGINT)
            return super().losses(model, batch)

    honest = loop.RECIPES["instances"]
    loop.RECIPES["instances"] = Interrupting
    try:
        with pytest.raises(Interrupted, match=f"after step {chosen}; add --resume"):
            run(config, tmp_path / "stopped")
    finally:
        loop.RECIPES["instances"] = honest
    saved = load_checkpoint(tmp_path / "stopped" / "last.pt")
    assert saved["step"] == chosen
    run(config, tmp_path / "stopped", resume=True)
    same_weights(tmp_path / "whole", tmp_path / "stopped")


def test_a_batch_in_parts_moves_the_weights_alike(tmp_path: Path) -> None:
    """Without BatchNorm, whose statistics are those of a part, the gradient of the parts is that of the whole."""
    from tests.train.test_recipes import write_masks

    path = write_masks(tmp_path)
    common = [
        *("epochs=1", "batch=4", "precision=fp32", "data.workers=0", "data.samples_per_epoch=8"),
        *("preview_every=1", "data.crop_px=[32, 32]", "optimizer.method=sgd", "optimizer.rate=0.01"),
        f"data.path={str(path)!r}",
    ]
    for name, parts in (("whole", 1), ("parts", 2)):
        run(load_config("wbc-fcn1", [*common, f"accumulate={parts}"]), tmp_path / name)
    whole, parts_ = (load_checkpoint(tmp_path / name / "last.pt")["model"] for name in ("whole", "parts"))
    for name, values in whole.items():
        torch.testing.assert_close(values, parts_[name], atol=1e-6, rtol=1e-4)


def fresh_state(config: TrainConfig) -> State:
    torch.manual_seed(config.seed)
    return new_state(config, Place(torch.device("cpu")))


def test_heads_first_then_all(tmp_path: Path) -> None:
    config = tiny_config(write_annotated(tmp_path / "data", 4), *SHORT, "heads_only_epochs=1", "optimizer.ema_decay=0")
    fresh = fresh_state(config).model.state_dict()
    fresh = {name: value.clone() for name, value in fresh.items()}
    run(replace(config, epochs=1), tmp_path / "heads")
    run(config, tmp_path / "both")
    heads, both = (load_checkpoint(tmp_path / name / "last.pt")["model"] for name in ("heads", "both"))
    for name, value in fresh.items():
        learned = value.is_floating_point()
        assert torch.equal(heads[name], value) == (not name.startswith("heads.") or not learned), name
        assert not learned or not torch.equal(both[name], value), name


def test_rates_by_beginning_of_name(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "optimizer.rates={down=0.1, 'down.1.'=0.01}")
    state = fresh_state(config)
    named = {id(p): name for name, p in state.model.named_parameters()}
    set_rate(state.optimizer, 1.0)
    rates = {named[id(p)]: group["lr"] for group in state.optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(named)
    for name, rate in rates.items():
        assert rate == (0.01 if name.startswith("down.1.") else 0.1 if name.startswith("down") else 1.0)
    with pytest.raises(UsageError, match=r"no parameter begins with 'trunk\.'; they begin with down\., up\., heads\."):
        loop.new_state(tiny_config(tmp_path, "optimizer.rates={'trunk.'=0.1}"), loop.Place(torch.device("cpu")))


def test_scores_that_rise_too_little_end_the_run_and_halve_the_rate(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "early_stop=4", "min_delta=0.05", "optimizer.schedule=plateau",
                         "optimizer.plateau_patience=2", "optimizer.rate=0.1", "optimizer.least_rate=0.04")  # fmt: skip
    state = fresh_state(config)
    spec = describe_model(config, 10.0)
    for score, stale, factor in ((0.5, 0, 1.0), (0.52, 1, 1.0), (0.54, 2, 0.5), (0.54, 3, 0.5), (0.53, 4, 0.5)):
        loop._judge(state, Validation(score, {}, list), spec, config, tmp_path)
        assert (state.stale, state.rate_factor) == (stale, factor)
    assert load_checkpoint(tmp_path / "best.pt")["score"] == 0.54
    assert loop._should_stop(state, config)


def test_devices_and_precisions_that_are_not_there(tmp_path: Path) -> None:
    config = tiny_config(write_annotated(tmp_path / "data", 4), *SHORT)
    with pytest.raises(UsageError, match="--device gpu: expected auto, cpu, cuda"):
        train(config, tmp_path / "run", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="found 0 CUDA devices here"):
            train(config, tmp_path / "run", device="cuda:0")
    with pytest.raises(UsageError, match="precision fp16 trains on CUDA devices"):
        train(replace(config, precision="fp16"), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    """torchrun: the same weights everywhere, and those of one process but for BatchNorm's smaller parts."""
    from tests.train.test_recipes import write_masks

    settings = ["epochs=1", "batch=4", "precision=fp32", "data.workers=0", "data.samples_per_epoch=8"]
    settings += ["preview_every=1", "data.crop_px=[32, 32]", "optimizer.method=sgd", "optimizer.rate=0.01"]
    config = load_config("wbc-fcn1", [*settings, f"data.path={str(write_masks(tmp_path))!r}"])
    run(config, tmp_path / "one")
    (tmp_path / "config.json").write_text(config.to_json())
    script = tmp_path / "both.py"
    script.write_text(
        "from pathlib import Path\nfrom cellengine.train.config import TrainConfig\n"
        "from cellengine.train.loop import train\n"
        f"here = Path({str(tmp_path)!r})\n"
        "train(TrainConfig.from_json((here / 'config.json').read_text()), here / 'two', device='cpu', echo=print)\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300, check=False)
    if "SIGABRT" in done.stderr:  # Gloo's own thread aborts now and then, pytorch/pytorch#188266; not twice in a row
        shutil.rmtree(tmp_path / "two", ignore_errors=True)
        done = subprocess.run(launch, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pictures to train on") == 1
    one, two = (load_checkpoint(tmp_path / name / "last.pt")["model"] for name in ("one", "two"))
    for name, values in one.items():
        torch.testing.assert_close(values, two[name], atol=1e-6, rtol=1e-4)


def test_loss_that_is_no_number_names_the_step(tmp_path: Path) -> None:
    config = tiny_config(
        write_annotated(tmp_path / "data", 4), *SHORT, "optimizer.rate=1e30", "optimizer.gradient_clip=0.0"
    )
    with pytest.raises(InputError, match=r"The loss is (nan|inf) at step \d+ \(epoch \d+, batch \d+ of 2\)"):
        run(config, tmp_path / "run")


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    """A gradient can be infinite where the loss is not: the root of 0. Nothing is written over the epoch before."""
    config = tiny_config(write_annotated(tmp_path / "data", 4), *SHORT, "optimizer.gradient_clip=0.0", "epochs=2")
    steps = iter(range(100))

    class Steep(Instances):
        def losses(self, model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
            terms = super().losses(model, batch)
            if model.training and next(steps) == 3:
                weights = next(model.parameters())
                terms["steep"] = (weights - weights.detach()).sum().abs().sqrt()
            return terms

    honest = loop.RECIPES["instances"]
    loop.RECIPES["instances"] = Steep
    try:
        with pytest.raises(InputError, match=r"Weights are not finite at step 4 .*last\.pt holds the epoch before"):
            run(config, tmp_path / "run")
    finally:
        loop.RECIPES["instances"] = honest
    saved = load_checkpoint(tmp_path / "run" / "last.pt")
    assert saved["epoch"] == 1
    assert all(torch.isfinite(w).all() for w in saved["model"].values() if w.is_floating_point())


def test_the_precision_is_that_of_the_device_and_a_run_goes_on_with_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [text for text in SHORT if not text.startswith("precision")]
    config = tiny_config(write_annotated(tmp_path / "data", 4), *settings, "epochs=1")
    assert config.precision == "auto"
    monkeypatch.setattr(Place, "best_precision", lambda self: "bf16")
    run(config, tmp_path / "run")
    assert TrainConfig.from_json(load_checkpoint(tmp_path / "run" / "last.pt")["config"]).precision == "bf16"
    monkeypatch.setattr(Place, "best_precision", lambda self: "fp32")
    run(config, tmp_path / "run", resume=True)
    lines = run(replace(config, precision="bf16"), tmp_path / "other")
    assert any("no fast instructions for bf16" in line for line in lines)


def test_the_best_precision_of_a_processor_is_bf16_with_amx_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Place(torch.device("cpu"))
    for flags, expected in (({"avx2"}, "fp32"), ({"avx512_bf16"}, "fp32"), ({"amx_bf16"}, "bf16"), (set(), "fp32")):
        monkeypatch.setattr("cellengine.train.place.cpu_flags", lambda flags=flags: frozenset(flags))
        assert cpu.best_precision() == expected


def test_a_run_of_an_optimizer_in_several_passes_goes_on_in_one(tmp_path: Path) -> None:
    """Moments of older runs may lie otherwise in memory than their weights: a pass over both has to mind that."""
    whole = tiny_config(write_annotated(tmp_path / "data", 4), *SHORT, "optimizer.schedule=plateau")
    run(whole, tmp_path / "whole")
    run(replace(whole, epochs=1, preview_every=1), tmp_path / "run")
    path = tmp_path / "run" / "last.pt"
    saved = load_checkpoint(path) | {"config": whole.to_json()}
    for group in saved["optimizer"]["param_groups"]:
        assert group["fused"]
        group["fused"] = None
    laid = 0
    for moments in saved["optimizer"]["state"].values():
        for name, values in moments.items():
            laid += not values.is_contiguous()
            moments[name] = values.contiguous()
    assert laid, "moments of convolutions lie with channels last"
    save_checkpoint(path, saved)
    run(whole, tmp_path / "run", resume=True)
    same_weights(tmp_path / "whole", tmp_path / "run")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets peaks")
def test_the_peak_of_memory_is_that_of_the_epoch() -> None:
    place = Place(torch.device("cpu"))
    place.forget_peaks()
    before = place.memory_mb()["ram_peak_mb"]
    held = torch.ones(50_000_000)
    assert place.memory_mb()["ram_peak_mb"] > before + 150
    del held
    place.forget_peaks()
    assert place.memory_mb()["ram_peak_mb"] < before + 100


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
