"""Is an output folder still what `infer` wrote? Its files against the checksums in the record of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cellengine.engine.journal import read_records
from cellengine.engine.outputs import checksum


@dataclass(frozen=True, slots=True)
class Verified:
    """What was compared, and what differs."""

    inputs: int
    """inputs that the run has finished"""
    outputs: int
    """files and Zarr folders compared"""
    differing: tuple[str, ...]
    """what is not as it was recorded, one line each: the name below the folder, and how it differs"""
    complete: bool
    """whether the run has ended; otherwise only its finished inputs were compared"""


def verify_output(folder: Path) -> Verified:
    """Compare every output of the run in `folder` with its SHA-256. Reads all of them once.

    Raises UsageError when the folder holds no run of `infer`.
    """
    records, complete = read_records(folder)
    differing: list[str] = []
    # the crops of a classifier share one output: each file is compared once
    recorded = {name: record.get("sha256", {}).get(name) for record in records.values() for name in record["outputs"]}
    for name, known in recorded.items():
        if not (folder / name).exists():
            differing.append(f"{name}: is missing")
        elif known is None:
            differing.append(f"{name}: has no recorded checksum")
        elif checksum(folder / name) != known:
            differing.append(f"{name}: differs from what was written")
    return Verified(len(records), len(recorded), tuple(differing), complete)
