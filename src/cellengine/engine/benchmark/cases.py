"""What is measured and what was found: records, and the list of combinations with the reasons for those left out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from cellengine.engine.backends import Candidate, available
from cellengine.engine.model_file import ModelFile
from cellengine.errors import UsageError
from cellengine.spec import ModelSpec

LARGEST_TILE_VOXELS = 1 << 20
"""of the tile that is measured when none is asked for: enough to use every core, and done in seconds"""

COLUMNS = (
    "model", "backend", "device", "precision", "tile", "batch", "load_s", "build_s", "p50_ms", "p90_ms", "p99_ms",
    "voxels_per_s", "peak_rss_bytes", "peak_device_bytes", "parity", "skipped",
)  # fmt: skip
"""of bench.csv; other programs rely on the names"""


@dataclass(frozen=True, slots=True)
class Case:
    """One combination to measure."""

    model: str
    """name of the model"""
    path: str
    backend: str
    device: str
    precision: str
    tile: tuple[int, ...]
    batch: int
    parity: str = ""
    """what the precision keeps of fp32, as measured at export"""


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What one combination did in a process of its own; without figures where it was skipped."""

    model: str
    backend: str
    device: str
    precision: str
    tile: tuple[int, ...]
    batch: int
    load_s: float | None = None
    """opening the session: reading, optimising, building an engine where the backend does that first"""
    build_s: float | None = None
    """the first batch over a usual one: compiling for its shape, and touching the memory"""
    seconds: tuple[float, ...] = ()
    """of single batches, one after the other"""
    voxels_per_s: float | None = None
    """with as many callers as the session can use, halos counted"""
    peak_rss_bytes: int | None = None
    """VmHWM of the process"""
    peak_device_bytes: int | None = None
    """what the process held on the GPU at most, as the driver counts it; where that does not tell processes apart (in
    containers, on Windows) the fall of the free memory"""
    free_device_drop_bytes: int | None = None
    """by how much the GPU's free memory fell, other processes' share included: a check of the figure above"""
    parity: str = ""
    skipped: str = ""
    """why it was not measured; empty when it was"""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str, tuple[int, ...], int]:
        """What tells one combination from another."""
        return self.model, self.backend, self.device, self.precision, self.tile, self.batch

    @property
    def name(self) -> str:
        """The combination as people say it."""
        return f"{self.backend} {self.precision} on {self.device}"

    @property
    def tile_text(self) -> str:
        """The tile as `--tile` takes it."""
        return ",".join(map(str, self.tile))

    def percentile_ms(self, share: float) -> float | None:
        """Latency in ms that `share` (0..1) of the batches did not exceed."""
        if not self.seconds:
            return None
        if len(self.seconds) == 1:
            return 1e3 * self.seconds[0]
        cuts = statistics.quantiles(self.seconds, n=100, method="inclusive")
        return 1e3 * cuts[round(100 * share) - 1]

    def row(self) -> dict[str, object]:
        """The values of `COLUMNS`; what was not measured is an empty text."""
        values: dict[str, object] = {
            "model": self.model,
            "backend": self.backend,
            "device": self.device,
            "precision": self.precision,
            "tile": self.tile_text,
            "batch": self.batch,
            "load_s": self.load_s,
            "build_s": self.build_s,
            "p50_ms": self.percentile_ms(0.5),
            "p90_ms": self.percentile_ms(0.9),
            "p99_ms": self.percentile_ms(0.99),
            "voxels_per_s": self.voxels_per_s,
            "peak_rss_bytes": self.peak_rss_bytes,
            "peak_device_bytes": self.peak_device_bytes,
            "parity": self.parity,
            "skipped": self.skipped,
        }
        return {name: "" if value is None else value for name, value in values.items()}


def list_cases(
    model: ModelFile,
    devices: Sequence[str],
    backends: Sequence[str],
    precisions: Sequence[str],
    tiles: Sequence[tuple[int, ...]],
    batches: Sequence[int],
) -> tuple[list[Case], list[BenchResult]]:
    """Every combination that was asked for (empty: all there are), and those that cannot run, with the reason.

    `device` all stands for every one. Raises UsageError for names that do not exist and tiles that do not fit.
    """
    shapes = [_fitting(tile, model.spec) for tile in tiles] or [_usual_tile(model.spec)]
    cases: list[Case] = []
    skipped: list[BenchResult] = []
    kinds: list[str | None] = [*precisions] or [None]
    places = ["auto" if d == "all" else d for d in devices] or ["auto"]
    found = {
        (candidate.backend, candidate.device, candidate.precision): candidate
        for device in places
        for backend in backends or ["auto"]
        for precision in kinds
        for candidate in available(model, device=device, backend=backend, precision=precision)
    }
    for c in found.values():
        for tile in shapes:
            for batch in batches or (1,):
                if c.model is None or c.problem:
                    skipped.append(
                        BenchResult(_name(model), c.backend, c.device, c.precision, tile, batch, skipped=c.problem)
                    )
                    continue
                proof = _parity(c.model.spec, c)
                path = str(c.model.path.resolve())
                cases.append(Case(_name(model), path, c.backend, c.device, c.precision, tile, batch, proof))
    return cases, skipped


def _name(model: ModelFile) -> str:
    return Path(model.path).stem


def _parity(spec: ModelSpec, c: Candidate) -> str:
    """What was measured on this backend and kind of device; elsewhere it was another arithmetic."""
    place = c.device.partition(":")[0]
    for p in spec.parity:
        measured = p.backend, p.precision, p.device.partition(":")[0]
        if measured == (c.backend, c.precision, place) and not p.emulated:
            parts = [f"F1 {p.f1_at_80:.4f}" if p.f1_at_80 is not None else f"max. difference {p.max_difference:.1e}"]
            if p.mean_ap_change is not None:
                parts.append(f"AP {p.mean_ap_change:+.4f}")
            if p.dice is not None:
                parts.append(f"Dice {p.dice:.4f}")
            if p.same_class is not None:
                parts.append(f"same class {p.same_class:.4f}")
            return "; ".join(parts)
    return "reference" if c.precision == "fp32" else "golden test"


def _usual_tile(spec: ModelSpec) -> tuple[int, ...]:
    """The model's tile, shrunk evenly to at most `LARGEST_TILE_VOXELS`; crops as they are."""
    if spec.task == "classification":
        return spec.tile
    shrink = min(1.0, (LARGEST_TILE_VOXELS / prod(spec.tile)) ** (1 / len(spec.tile)))
    return tuple(max(d, int(t * shrink) // d * d) for t, d in zip(spec.tile, spec.divisor, strict=True))


def _fitting(tile: tuple[int, ...], spec: ModelSpec) -> tuple[int, ...]:
    whole = tile * len(spec.axes) if len(tile) == 1 else tile
    if len(whole) != len(spec.axes) or any(t < d or t % d for t, d in zip(whole, spec.divisor, strict=False)):
        raise UsageError(
            f"--tile {','.join(map(str, tile))}: {spec.name} takes {len(spec.axes)} sides, "
            f"multiples of {','.join(map(str, spec.divisor))}."
        )
    return whole
