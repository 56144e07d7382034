"""`cellengine train`: from annotated pictures to a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from cellengine.errors import PartialFailure, UsageError, missing_package
from cellengine.io.lists import some
from cellengine.zoo import bundled


@click.command()
@click.argument("config", metavar="CONFIG|PRESET")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@click.option(
    "--init",
    metavar="MODEL|CHECKPOINT",
    help="Start from these weights as far as they fit: a bundled model, an .onnx file or a checkpoint.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a setting; may be repeated."
)
@click.option(
    "--sweep",
    is_flag=True,
    help="Try every combination of the lists in [sweep] of CONFIG and of --set KEY=[A, B]; one table, one plot.",
)
@click.option(
    "--folds", type=int, default=0, metavar="K", help="Cross-validate: K runs, each validated on another part."
)
def command(
    config: str,
    output: Path,
    resume: bool,
    init: str | None,
    device: str,
    overrides: tuple[str, ...],
    sweep: bool,
    folds: int,
) -> None:
    """Train a model from a TOML configuration or a preset.

    The pictures are named by --set data.path=LIST.csv (columns image and label) or a folder with images/ and labels/.
    OUTPUT gets last.pt, best.pt, metrics.csv, curves.png, preview pictures and TensorBoard's files; of --sweep and
    --folds one folder a run, sweep.csv and sweep.png. Several devices: torchrun --no-python --nproc-per-node=N
    cellengine train ...

    When a run of --sweep or --folds fails, the table says why, the others go on, and the exit code is 6.
    """
    try:
        from cellengine.train.beginning import settle_start
        from cellengine.train.config import load_config
        from cellengine.train.loop import train
        from cellengine.train.place import keep_freed_memory
        from cellengine.train.sweep import FAILED, plan_trials, run_trials
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "torch", "Training", 'pip install "cellengine[train]"') from error
    if resume and init:
        raise UsageError("--resume goes on from its own weights and --init starts from others: give one of them.")
    start = bundled().get(init, Path(init)) if init else None
    keep_freed_memory()
    if sweep or folds:
        trials = plan_trials(config, overrides, sweep=sweep, folds=folds)
        rows = run_trials(trials, output, resume=resume, init=start, device=device, echo=click.echo)
        named = [(trial.name, row) for trial, row in zip(trials, rows, strict=True)]
        done = [(row["score"], name) for name, row in named if FAILED not in row]
        for score, name in sorted(done, key=lambda pair: -pair[0]):
            click.echo(f"{score:.4f}  {name}")
        click.echo(f"table: {output / 'sweep.csv'}, plot: {output / 'sweep.png'}")
        failed = [name for name, row in named if FAILED in row]
        if failed:
            raise PartialFailure(
                f"{len(failed)} of {len(rows)} runs failed ({some(failed)}), the table says why; "
                "--resume tries them again."
            )
        return
    settings = load_config(config, overrides)
    start = settle_start(output, start, resume=resume)
    best = train(settings, output, resume=resume, init=start, device=device, echo=click.echo)
    click.echo(f"best weights: {best}; next: cellengine export {output} -o model.onnx")
