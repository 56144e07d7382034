"""From labelled blocks to the outputs of a source: numbers of the whole, rows of the table, labels in any box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Protocol

import numpy as np

from cellengine.engine.blocks import Blocks, join_blocks
from cellengine.engine.flow import Stop
from cellengine.engine.predict import SCORE_STEPS
from cellengine.engine.scene import Scene
from cellengine.engine.table import Table, object_columns
from cellengine.geometry import Region
from cellengine.io.bricks import BrickFile, Place
from cellengine.ops.measure import ObjectStatistics, ObjectTable
from cellengine.ops.stitch import Kept
from cellengine.spec import ModelSpec

Array = np.ndarray[Any, Any]


class PictureLabels(Protocol):
    """A picture that gives out its labels in any box."""

    @property
    def scene(self) -> Scene:
        """The picture."""

    def labels(self, region: Region) -> Array:
        """Its labels in a box."""


class LabelledPicture:
    """One picture whose blocks are all labelled: its labels and its table, in the numbers of the source.

    Memory: 4 bytes for each label of a block, and about 60 while they are joined.
    """

    def __init__(
        self,
        scene: Scene,
        spec: ModelSpec,
        blocks: Blocks | None,
        store: BrickFile,
        places: dict[int, Place],
        before: int,
        threads: int,
        stop: Stop,
    ) -> None:
        """`blocks`: None where there is nothing to see; `places`: where the record of every block is in `store`;
        `before`: objects of earlier pictures."""
        self.scene, self._spec, self._blocks, self._store, self._places = scene, spec, blocks, store, places
        self._grid, self._before = scene.grid, before
        self._names: list[Array] = []
        self.count = 0
        if blocks is not None:
            found = [self._kept(number) for number in range(len(blocks))]
            self._names, self.count = join_blocks(self._local, found, blocks, self._grid, spec.decoder, threads, stop)

    def labels(self, region: Region) -> Array:
        """The final labels, uint32, of a box of the picture. Any thread may ask."""
        if self._blocks is None:
            return np.zeros(region.shape, np.uint32)
        seen = self._grid.network_region(region)
        out = np.empty(seen.shape, np.uint32)
        for number in self._blocks.cores.meeting(seen):
            part = seen.intersect(self._blocks[number].core)
            out[part.relative_to(seen)] = self._names[number][self._local(number, part)]
        out[out > 0] += np.uint32(self._before)
        return self._grid.to_image(out, region)

    def rows(self) -> Iterator[Table]:
        """The table, some rows at a time, in order; at least one part, which may be empty.

        Layers of blocks follow each other along the first axis. Objects are numbered along it, too: those below the
        first that reaches into a later layer are finished. Memory: 200 bytes for each that is not.
        """
        empty = self._counter()
        yield self._columns(empty.finish(), 0)
        if self._blocks is None:
            return
        layer = prod(self._blocks.cores.counts[1:])
        window, done = empty, 0
        for first, later in zip(range(0, len(self._blocks), layer), self._first_in_later_layers(layer), strict=True):
            for number in range(first, min(first + layer, len(self._blocks))):
                tables = self._store.tables(self._places[number])
                part = ObjectStatistics.restored(self.scene.shape, tables["counts"], tables["sums"])
                names = self._names[number].astype(np.int64)
                window.merge(part, np.maximum(names - done, 0))
            ready = window.pop(later - 1 - done)
            yield self._columns(ready, done)
            done = later - 1

    def _counter(self) -> ObjectStatistics:
        return counter(self.scene, self._spec)

    def _columns(self, found: ObjectTable, done: int) -> Table:
        """Rows of objects that were measured as `counter` says; label 1 is number `done` + 1 of the picture."""
        score = None
        if is_scored(self._spec):
            score = found.intensity_mean[:, -1] / SCORE_STEPS
            names = ("intensity_mean", "intensity_min", "intensity_max", "intensity_std")
            found = replace(found, **{name: getattr(found, name)[:, :-1] for name in names})
        columns = object_columns(found, score, self.scene, self._spec)
        return columns | {"label": columns["label"].astype(np.int64) + done + self._before}

    def _first_in_later_layers(self, layer: int) -> list[int]:
        """For each layer of blocks the lowest number that a later one holds; one more than all at the end."""
        lowest = [self.count + 1]
        for first in reversed(range(layer, len(self._names), layer)):
            here = (names[names > 0] for names in self._names[first : first + layer])
            lowest.append(min([lowest[-1], *(int(names.min()) for names in here if len(names))]))
        return lowest[::-1]

    def _kept(self, number: int) -> Kept:
        tables = self._store.tables(self._places[number])
        return Kept(tables["voxels"], tables["first"])

    def _local(self, number: int, region: Region) -> Array:
        """A block's own labels in a part of what it has read."""
        if self._blocks is None:
            raise ValueError("a picture with nothing to see has no blocks")
        return self._store.read(self._places[number], region.seen_from(self._blocks[number].read))


class Assembly:
    """The labels of a source in any box, from those of its pictures."""

    def __init__(self, axes: str, pictures: Sequence[PictureLabels]) -> None:
        self._inner = [i for i, axis in enumerate(axes) if axis in pictures[0].scene.axes]
        self._outer = [i for i, axis in enumerate(axes) if axis not in pictures[0].scene.axes]
        places = [one.scene.place(axes, Region.whole(one.scene.shape)).start for one in pictures]
        self._pictures = {tuple(p[i] for i in self._outer): one for p, one in zip(places, pictures, strict=True)}

    def labels(self, region: Region) -> Array:
        """uint32 labels of a box of the output."""
        out = np.zeros(region.shape, np.uint32)
        inner = Region(tuple(region.start[i] for i in self._inner), tuple(region.stop[i] for i in self._inner))
        for at in np.ndindex(*(region.shape[i] for i in self._outer)):
            place: list[int | slice] = [slice(None)] * len(region.start)
            for axis, i in zip(self._outer, at, strict=True):
                place[axis] = i
            key = tuple(region.start[axis] + i for axis, i in zip(self._outer, at, strict=True))
            out[tuple(place)] = self._pictures[key].labels(inner)
        return out


def is_scored(spec: ModelSpec) -> bool:
    """Whether objects get a score: the mean of the foreground."""
    return any(output.name == "foreground" for output in spec.outputs)


def counter(scene: Scene, spec: ModelSpec) -> ObjectStatistics:
    """Empty measurements of a picture: the channels of its file and, last, the foreground where the model has one."""
    channels = scene.source.shape[scene.source.axes.index("C")] if "C" in scene.source.axes else 1
    return ObjectStatistics(scene.shape, channels + is_scored(spec))
