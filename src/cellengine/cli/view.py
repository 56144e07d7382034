"""`cellengine view`: what `infer` found, in napari."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cellengine.engine.journal import RUN, read_json
from cellengine.errors import UsageError, missing_package
from cellengine.geometry import Region
from cellengine.io import open_source, read_table


@click.command()
@click.argument("output", type=click.Path(path_type=Path), metavar="OUT")
@click.option("--file", "name", metavar="NAME", help="Which of several inputs; without it the first.")
def command(output: Path, name: str | None) -> None:
    """Open an input of OUT with its labels and its table in napari."""
    shown = find_shown(output, name)
    try:
        import napari
    except ModuleNotFoundError as error:
        install = "pip install 'cellengine[view]'"
        raise missing_package(str(error.name), "cellengine view", install) from error
    viewer = napari.Viewer(title=f"cellengine: {shown['name']}")
    for layer, add in (("image", viewer.add_image), ("labels", viewer.add_labels)):
        if shown[layer] is not None:
            options = {"features": _features(shown["table"])} if layer == "labels" else {}
            add(**_layer(shown[layer], shown["settings"] if layer == "image" else {}), **options)
    napari.run()


def find_shown(output: Path, name: str | None) -> dict[str, Any]:
    """What belongs to one input of a run: the paths of image (None when it has gone), labels and table, the settings.

    Raises UsageError when `output` holds no finished run or not that input.
    """
    if not (output / RUN).is_file():
        raise UsageError(f"{output} holds no finished run: expected the -o of `cellengine infer`.")
    run = read_json(output / RUN)
    files = run.get("files", {})
    with_labels = {n: r for n, r in files.items() if any(".labels." in o for o in r.get("outputs", ()))}
    if name is None and with_labels:
        name = next(iter(with_labels))
    if name not in with_labels:
        raise UsageError(f"{output}: no labels of {name or 'any input'}; it has {', '.join(list(with_labels)[:10])}.")
    record = with_labels[name]
    paths = {
        kind: next((output / o for o in record["outputs"] if ending in o), None)
        for kind, ending in (("labels", ".labels."), ("table", ".objects.csv"))
    }
    source = Path(record["source"])
    return {
        "name": name,
        **paths,
        "image": source if source.exists() else None,
        "settings": {key: run["settings"].get(key) for key in ("axes", "dataset")},
    }


def _layer(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a napari layer: the pixels, what an axis means, and the voxel size."""
    with open_source(path, **settings) as source:
        pixels = source.read(Region.whole(source.shape))
        size = source.voxel_size_um or (1.0,) * sum(axis in "ZYX" for axis in source.axes)
        spatial = iter(size)
        scale = [next(spatial) if axis in "ZYX" else 1.0 for axis in source.axes if axis != "C"]
        channel = {"channel_axis": source.axes.index("C")} if "C" in source.axes else {}
        return {"data": pixels, "scale": scale, **channel}


def _features(table: Path | None) -> dict[str, Any]:
    """The columns of the table; napari wants a row for the background first, and shows them under the pointer."""
    if table is None:
        return {}
    columns = read_table(table)
    return {"index": columns["label"], **{name: values for name, values in columns.items() if name != "label"}}
