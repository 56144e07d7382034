"""`cellengine bench`: how fast models run on this machine, and in how much memory."""

from __future__ import annotations

from pathlib import Path

import click

from cellengine.cli.options import parse_bytes, parse_tile
from cellengine.cli.tables import print_table
from cellengine.engine.benchmark.cases import BenchResult, list_cases
from cellengine.engine.benchmark.report import SHOWN, shown_rows, skipped_rows, write_report
from cellengine.engine.benchmark.run import compare, measure_all, read_results, recommend
from cellengine.engine.model_file import read_model_file, resolve_model
from cellengine.errors import PartialFailure, ResourceError


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Folder for bench.csv, bench.json, bench.md and bench.html; it is made.",
)
@click.option("--device", multiple=True, help="cpu, cuda:0, ... or all; may be given several times.  [default: all]")
@click.option("--backend", multiple=True, help="onnxruntime, openvino, tensorrt; several times.  [default: all]")
@click.option("--precision", multiple=True, help="fp32, bf16, fp16, int8; several times.  [default: all]")
@click.option("--tile", multiple=True, metavar="PX", help="N or Y,X or Z,Y,X; several times.  [default: the model's]")
@click.option("--batch", multiple=True, type=click.IntRange(1), help="Tiles per call; several times.  [default: 1]")
@click.option(
    "--compare", "earlier", type=click.Path(path_type=Path), metavar="OLD.json", help="An earlier bench.json."
)
@click.option("--budget", metavar="SIZE", help="Say which combination is fastest within this memory, e.g. 8GB.")
def command(
    models: tuple[str, ...],
    output: Path,
    device: tuple[str, ...],
    backend: tuple[str, ...],
    precision: tuple[str, ...],
    tile: tuple[str, ...],
    batch: tuple[int, ...],
    earlier: Path | None,
    budget: str | None,
) -> None:
    """Measure MODEL in every combination of device, backend, precision, tile and batch, each in a fresh process.

    Load and build time, latency, voxels per second and peak memory stand beside the parity of the precision. What
    cannot run is listed with the reason. With --compare the exit code is 6 when something has become slower or larger.
    """
    before = read_results(earlier) if earlier else []
    allowed = parse_bytes("--budget", budget) if budget else None
    tiles = [parse_tile("--tile", text) for text in tile]
    cases, results = [], list[BenchResult]()
    for name in models:
        found, skipped = list_cases(read_model_file(resolve_model(name)), device, backend, precision, tiles, batch)
        cases += found
        results += skipped
    results = measure_all(cases, _tell) + results
    paths = write_report(output, results)
    print_table("\nMeasured", SHOWN, shown_rows(results))
    if reasons := skipped_rows(results):
        print_table("\nSkipped", ("combination", "reason"), reasons)
    click.echo(f"\nlook at {paths[-1]}; all files are in {output}")
    if allowed is not None:
        _recommend(results, allowed)
    if earlier:
        _compare(results, before, earlier)


def _tell(result: BenchResult) -> None:
    rate = result.skipped or f"{(result.voxels_per_s or 0) / 1e6:.3f} Mvoxel/s"
    click.echo(f"{result.model} {result.name}, tile {result.tile_text}, batch {result.batch}: {rate}")


def _recommend(results: list[BenchResult], allowed: int) -> None:
    best = recommend(results, allowed)
    if best is None:
        raise ResourceError(f"Nothing that was measured fits into {allowed / 1e9:.3g} GB: try a smaller --tile.")
    click.echo(
        f"fastest within {allowed / 1e9:.3g} GB: --backend {best.backend} --precision {best.precision} "
        f"--device {best.device} --tile {best.tile_text} --batch {best.batch} "
        f"({(best.voxels_per_s or 0) / 1e6:.3f} Mvoxel/s)"
    )


def _compare(results: list[BenchResult], before: list[BenchResult], earlier: Path) -> None:
    changes = compare(results, before)
    rows = [
        (c.now.model, c.now.name, c.now.tile_text, str(c.now.batch), f"{c.speed:.2f}", f"{c.memory:.2f}",
         "worse" if c.worse else "")
        for c in changes
    ]  # fmt: skip
    print_table(
        f"\nAgainst {earlier}", ("model", "combination", "tile", "batch", "speed x", "memory x", "verdict"), rows
    )
    if worse := [c for c in changes if c.worse]:
        raise PartialFailure(
            f"{len(worse)} of {len(changes)} combinations are slower or larger than in {earlier}: "
            "see the table; measure again on a quiet machine to be sure."
        )
