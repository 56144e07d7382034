"""A classifier on files of one crop each: one table for all of them, `classes.csv`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cellengine.engine.classify import best, classify, cut_crop
from cellengine.engine.flow import Stop
from cellengine.engine.options import InferOptions
from cellengine.engine.outputs import checksum
from cellengine.engine.run import Progress
from cellengine.engine.scene import scenes
from cellengine.engine.session import Session
from cellengine.engine.table import Table
from cellengine.errors import InputError, UsageError
from cellengine.io import open_source, write_table
from cellengine.spec import ModelSpec

Array = np.ndarray[Any, Any]

CLASSES = "classes.csv"
"""one row a crop"""


def classify_into(
    folder: Path,
    files: Mapping[str, Path],
    session: Session,
    options: InferOptions,
    stop: Stop,
    progress: Progress,
) -> tuple[dict[str, dict[str, Any]], dict[str, Exception]]:
    """Classify crops, name -> file, and write `classes.csv` into `folder`.

    Returns what is recorded of each crop that could be read, and the errors of the others; see `classify_files`.
    """
    begun = time.perf_counter()
    table, failed = classify_files(files, session, options, stop, progress)
    path = folder / CLASSES
    write_table(path, table)
    common: dict[str, Any] = {"outputs": [CLASSES], "sha256": {CLASSES: checksum(path)}, "warnings": []}
    common["seconds"] = {"total": round((time.perf_counter() - begun) / len(files), 6)}
    answers = zip(*(table[column].tolist() for column in ("file", "class", "score")), strict=True)
    records = {
        name: {"class": label, "score": round(score, 6), "source": os.fspath(files[name].absolute()), **common}
        for name, label, score in answers
    }
    return records, failed


def classify_files(
    files: Mapping[str, Path], session: Session, options: InferOptions, stop: Stop, progress: Progress
) -> tuple[Table, dict[str, Exception]]:
    """Classify crops, name -> file: the rows of `classes.csv`, and the errors of those that could not be read.

    Columns: `file`, `class`, `score` (the probability of that class), and the probability of every class by its name.
    Of a larger picture the middle is taken, a smaller one is continued by reflection. With `on_error` "stop", and for
    a single file, the first error is raised instead.
    """
    failed: dict[str, Exception] = {}

    def read(name: str) -> Array | None:
        try:
            return _read_crop(files[name], session.spec, options)
        except (InputError, UsageError) as error:
            if options.on_error == "stop" or len(files) == 1:
                raise
            failed[name] = error
            return None

    progress.begin("crops", len(files))
    names = list(files)
    answers = classify(names, read, session, options, stop, progress.advance)
    kept = [i for i, name in enumerate(names) if name not in failed]
    table: Table = {"file": np.array([names[i] for i in kept], str), **best(answers[kept], session.spec.classes)}
    table |= {name: answers[kept, i] for i, name in enumerate(session.spec.classes)}
    return table, {name: failed[name] for name in names if name in failed}


def _read_crop(path: Path, spec: ModelSpec, options: InferOptions) -> Array:
    size = options.voxel_size_um
    with open_source(path, axes=options.axes, dataset=options.dataset, voxel_size_um=size, cache_bytes=0) as source:
        found = scenes(source, spec, options)
        if len(found) > 1:
            raise InputError(
                f"{source.name}: found {len(found)} pictures ({source.axes} {source.shape}), the classifier "
                f"{spec.name} takes files of one crop each; cut them out, or choose one with --timepoint."
            )
        seen = found[0].seen
        return cut_crop(seen, [n // 2 for n in seen.shape], spec, options)
