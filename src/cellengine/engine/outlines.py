"""Outlines of everything that was found in one input, from its label image and its table, some objects at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellengine.geometry import Region
from cellengine.io import ImageSource, open_source
from cellengine.io.columns import read_columns, read_header
from cellengine.io.outlines import SUFFIXES, WRITERS, Outline, OutlineKind, parts_of
from cellengine.ops.contours import ring_area, trace_outlines

Array = np.ndarray[Any, Any]
Block = Mapping[str, Array]

ROWS_AT_ONCE = 2048
"""objects are numbered in raster order, so that many lie in a band of the picture"""
MEASUREMENTS = ("score", "area_px", "area_um2", "volume_px", "volume_um3")


def write_outlines(kind: OutlineKind, stem: Path, labels: Path, table: Path) -> str:
    """Write `<stem>.outlines.geojson` or `.outlines.zip`; returns the name. Of volumes every plane is outlined.

    Memory follows the part of the picture that holds ROWS_AT_ONCE neighbouring objects. Raises ResourceError when the
    file cannot be written.
    """
    path = stem.with_name(stem.name + SUFFIXES[kind])
    header = read_header(table)
    axes = [axis for axis in "zyx" if f"bbox_{axis}0" in header]
    lead = [axis for axis in ("t", "z") if axis in header and axis not in axes]
    names = ["label", *lead, *(f"bbox_{axis}{end}" for axis in axes for end in "01")]
    names += [name for name in (*MEASUREMENTS, "class") if name in header]
    with WRITERS[kind](path) as writer, open_source(labels) as source:
        for cells in read_columns(table, names, ROWS_AT_ONCE):
            block = {name: np.array(column, str if name == "class" else float) for name, column in cells.items()}
            for at, rows in _planes(block, lead):
                for outline in _outlines(source, rows, at, axes):
                    writer.add(outline)
    return path.name


def _planes(block: Block, lead: Sequence[str]) -> Iterator[tuple[dict[str, int], Block]]:
    """The rows of a block by the picture that they lie in."""
    if not lead:
        yield {}, block
        return
    places = np.stack([block[axis] for axis in lead], 1).astype(np.int64)
    for place in np.unique(places, axis=0):
        rows = (places == place).all(1)
        yield dict(zip(lead, place.tolist(), strict=True)), {name: column[rows] for name, column in block.items()}


def _outlines(source: ImageSource, rows: Block, at: Mapping[str, int], axes: Sequence[str]) -> Iterator[Outline]:
    start = {axis: int(rows[f"bbox_{axis}0"].min()) for axis in axes}
    stop = {axis: int(rows[f"bbox_{axis}1"].max()) for axis in axes}
    bounds = [
        (start[axis], stop[axis]) if axis in start else (at.get(axis, 0), at.get(axis, 0) + 1)
        for axis in source.axes.lower()
    ]
    window = source.read(Region(tuple(a for a, _ in bounds), tuple(b for _, b in bounds)))
    wanted = rows["label"].astype(np.int64)
    planes = window.reshape(-1, *window.shape[-2:])
    # numbers of neighbours in the table follow each other, so that a range tells them from all others here
    planes = np.where((planes >= wanted.min()) & (planes <= wanted.max()), planes, 0).astype(np.uint32)
    row_of = {label: row for row, label in enumerate(wanted.tolist())}
    for number, plane in enumerate(planes):
        z = start["z"] + number if "z" in start else at.get("z")
        for label, rings in _rings(plane, (start["x"], start["y"])):
            row = row_of[label]
            yield Outline(
                label,
                parts_of(rings, [ring_area(ring) for ring in rings]),
                z,
                at.get("t"),
                str(rows["class"][row]) if "class" in rows else "",
                {name: float(rows[name][row]) for name in MEASUREMENTS if name in rows},
            )


def _rings(plane: Array, corner: tuple[int, int]) -> Iterator[tuple[int, list[Array]]]:
    """Every object of a plane with its rings, in the order of labels."""
    vertices, starts, owners = trace_outlines(plane)
    vertices = vertices + np.array(corner, np.int32)
    order = np.argsort(owners, kind="stable")
    firsts = np.flatnonzero(np.diff(owners[order], prepend=0)) if len(order) else order
    for first, last in zip(firsts, [*firsts[1:], len(order)], strict=True):
        rings = [vertices[starts[i] : starts[i + 1]] for i in order[first:last]]
        yield int(owners[order[first]]), rings
