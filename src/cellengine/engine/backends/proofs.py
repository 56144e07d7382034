"""Golden tests that passed on this machine: they unlock a precision that could not be run where a model was exported.

`cellengine doctor` makes them; they are kept in the cache folder, by model, device, library version and precision.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

from cellengine.engine.backends.choice import machine
from cellengine.engine.backends.folders import cache_folder
from cellengine.engine.golden import GoldenResult
from cellengine.engine.model_file import ModelFile
from cellengine.records import RecordError, from_plain, to_plain

log = logging.getLogger(__name__)


def may_be_proven(model: ModelFile, backend: str, device: str, precision: str) -> bool:
    """Whether a golden test decides: real pictures passed elsewhere, and this kind of device was never tried.

    Only forms of a model are unlocked this way: their file holds the very arithmetic that the pictures passed with.
    """
    if model.form != precision or model.golden is None:
        return False
    place = device.partition(":")[0]
    entries = [p for p in model.spec.parity if p.precision == precision]
    tried = [p for p in entries if p.backend == backend and p.device.partition(":")[0] == place and not p.emulated]
    return not tried and any(p.passed for p in entries)


def is_proven(model: ModelFile, backend: str, version: str, device: str, precision: str) -> bool:
    """Whether the golden test has passed here, with this version of the library."""
    try:
        text = _path(model, backend, version, device, precision).read_text(encoding="utf-8")
        return from_plain(GoldenResult, json.loads(text)).passed
    except (OSError, ValueError, RecordError):
        return False


def keep_proof(model: ModelFile, backend: str, version: str, device: str, precision: str, result: GoldenResult) -> None:
    """Keep that the test passed. A folder that cannot be written only means testing again the next time."""
    path = _path(model, backend, version, device, precision)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(to_plain(result), indent=1), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        log.warning("The proof cannot be kept in %s (%s); set CELLENGINE_CACHE.", path.parent, error)


def _path(model: ModelFile, backend: str, version: str, device: str, precision: str) -> Path:
    facts = [model.sha256, machine(), backend, version, device, precision]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    return cache_folder() / "proofs" / f"{name}.json"
