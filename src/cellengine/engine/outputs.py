"""The files of one source: labels, table, overlay. Each appears under its name only when it is whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cellengine.engine.checkpoint import Checkpoint
from cellengine.engine.flow import Stop
from cellengine.engine.options import InferOptions
from cellengine.engine.overlay import classes_by_label, draw_overlay
from cellengine.engine.run import Progress, Result, label_axes
from cellengine.engine.semantic import map_classes
from cellengine.engine.session import Session
from cellengine.errors import InputError
from cellengine.geometry import Region
from cellengine.io import ImageSource, create_sink, write_png, write_table
from cellengine.io.sink import writing

LARGEST_TIFF_BYTES = 2 << 30
"""labels above this go to OME-Zarr, which any program can open in part"""


def write_outputs(
    stem: Path,
    source: ImageSource,
    result: Result,
    options: InferOptions,
    *,
    is_zarr: bool,
    classes: Sequence[str] = (),
) -> list[str]:
    """Write `<stem>.labels.*`, `<stem>.objects.csv` and `<stem>.overlay.png` side by side; return their names.

    The overlay has a colour for each of `classes`, or where there are none tells neighbours apart.
    """
    labels = labels_path(stem, result.labels.nbytes, options, is_zarr=is_zarr)
    table = stem.with_name(stem.name + ".objects.csv")
    overlay = stem.with_name(stem.name + ".overlay.png")
    with writing(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)

    def write_labels() -> None:
        with create_sink(labels, result.labels.shape, result.axes, source.voxel_size_um) as sink:
            sink.write(Region.whole(result.labels.shape), result.labels)

    def write_overlay() -> None:
        found = result.objects
        class_of = classes_by_label(found["label"], found["class"], classes) if classes else None
        write_png(overlay, draw_overlay(*result.shown, class_of))

    tasks = (write_labels, lambda: write_table(table, result.objects), write_overlay)
    with ThreadPoolExecutor(len(tasks), thread_name_prefix="write") as pool:
        for future in [pool.submit(task) for task in tasks]:
            future.result()
    return [path.name for path in (labels, table, overlay)]


def write_class_map(
    stem: Path,
    source: ImageSource,
    session: Session,
    options: InferOptions,
    stop: Stop,
    progress: Progress,
    *,
    is_zarr: bool,
    checkpoint: Checkpoint | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Run a semantic model: `<stem>.labels.*` (class numbers), `<stem>.classes.csv` (areas) and `<stem>.overlay.png`.

    Tiles that a `checkpoint` holds are not computed again. Any size of picture; memory does not grow with it. Returns
    what is recorded, and the names of the outputs.
    """
    axes, shape = label_axes(source, options)
    labels = labels_path(stem, prod(shape), options, is_zarr=is_zarr)
    table, overlay = (stem.with_name(stem.name + end) for end in (".classes.csv", ".overlay.png"))
    with create_sink(labels, shape, axes, source.voxel_size_um, np.uint8) as sink:
        found = map_classes(source, session, options, stop, progress, sink, checkpoint)
        write_png(overlay, found.window.draw(found.pictures[len(found.pictures) // 2]))
        write_table(table, found.table)
    return found.run, [path.name for path in (labels, table, overlay)]


def labels_path(stem: Path, nbytes: int, options: InferOptions, *, is_zarr: bool) -> Path:
    """Where labels of `nbytes` go, by what was asked for, the kind of the input, and their size."""
    zarr = options.format == "ome-zarr" or (options.format == "auto" and (is_zarr or nbytes > LARGEST_TIFF_BYTES))
    return stem.with_name(stem.name + (".labels.ome.zarr" if zarr else ".labels.tif"))


def checksum(path: Path) -> str:
    """SHA-256 of a file; of a folder that of the names and checksums of the files in it."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted((p.relative_to(path).as_posix(), p) for p in path.rglob("*") if p.is_file())
    with ThreadPoolExecutor(4, thread_name_prefix="checksum") as pool:
        found = pool.map(checksum, (p for _, p in files))
        lines = (f"{digest} {name}\n" for (name, _), digest in zip(files, found, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def fingerprint(path: Path) -> dict[str, object]:
    """What tells one input from another without reading it whole: total size and the time of the last change."""
    total = newest = 0
    try:
        for file in (
            [path] if path.is_file() else (Path(root, name) for root, _, names in os.walk(path) for name in names)
        ):
            found = file.stat()
            total, newest = total + found.st_size, max(newest, found.st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    return {"bytes": total, "changed_ns": newest}
