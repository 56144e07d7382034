"""The files of one source: labels, table, overlay. Each appears under its name only when it is whole."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cellengine.engine.infer import Result
from cellengine.engine.options import InferOptions
from cellengine.engine.overlay import draw_overlay
from cellengine.errors import InputError
from cellengine.geometry import Region
from cellengine.io import ImageSource, create_sink, write_png, write_table
from cellengine.io.sink import writing

LARGEST_TIFF_BYTES = 2 << 30
"""labels above this go to OME-Zarr, which any program can open in part"""


def write_outputs(stem: Path, source: ImageSource, result: Result, options: InferOptions, is_zarr: bool) -> list[str]:
    """Write `<stem>.labels.*`, `<stem>.objects.csv` and `<stem>.overlay.png` side by side; return their names."""
    zarr = options.format == "ome-zarr" or (
        options.format == "auto" and (is_zarr or result.labels.nbytes > LARGEST_TIFF_BYTES)
    )
    labels = stem.with_name(stem.name + (".labels.ome.zarr" if zarr else ".labels.tif"))
    table = stem.with_name(stem.name + ".objects.csv")
    overlay = stem.with_name(stem.name + ".overlay.png")
    with writing(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)

    def write_labels() -> None:
        with create_sink(labels, result.labels.shape, result.axes, source.voxel_size_um) as sink:
            sink.write(Region.whole(result.labels.shape), result.labels)

    def write_overlay() -> None:
        write_png(overlay, draw_overlay(*result.shown))

    tasks = (write_labels, lambda: write_table(table, result.objects), write_overlay)
    with ThreadPoolExecutor(len(tasks), thread_name_prefix="write") as pool:
        for future in [pool.submit(task) for task in tasks]:
            future.result()
    return [path.name for path in (labels, table, overlay)]


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
