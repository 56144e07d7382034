"""`infer` for sources that do not fit in memory: scores and labels in blocks, outputs written as they are found."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cellengine.engine.blocks import BlockLabels, Margins, block_margins, choose_core, label_blocks, plan_blocks
from cellengine.engine.flow import Stop, overlap
from cellengine.engine.infer import memory_needed
from cellengine.engine.label import label
from cellengine.engine.options import InferOptions
from cellengine.engine.outputs import labels_path
from cellengine.engine.overlay import Window
from cellengine.engine.plan import Plan, plan_picture, ram_limit
from cellengine.engine.predict import SCORE_STEPS, Scores, predict_batches, quantise, tile_batches
from cellengine.engine.run import Clock, Progress, check_finite, describe_run, label_axes
from cellengine.engine.scale import measure_scene
from cellengine.engine.scene import Scene, scenes
from cellengine.engine.session import Session
from cellengine.engine.table import Table, object_columns
from cellengine.errors import ResourceError
from cellengine.geometry import Region
from cellengine.io import ImageSource, LabelSink, TableWriter, create_sink, write_png
from cellengine.io.bricks import BrickFile, GridFile
from cellengine.io.sink import partial_name, remove, writing
from cellengine.ops.measure import ObjectStatistics
from cellengine.ops.threads import worker_count
from cellengine.spec import ModelSpec

Array = np.ndarray[Any, Any]

DECODE_BYTES = 48
"""memory a voxel of a block in work: its scores as floats, its labels, and what the decoder needs for dense pictures"""
PIECE_BYTES = 24
"""memory a voxel of the picture takes while labels and scores are brought back to its grid and measured"""
SCORE_SHARE, BLOCK_SHARE = 1 / 5, 1 / 4
"""shares of a run's memory for scores that are kept in it, and for blocks in work; the rest is for the network, the
source's cache, and the program itself"""
MOST_THREADS = 4
"""blocks in work at a time; each decodes on several threads, and more blocks would have to be smaller"""


@dataclass(frozen=True, slots=True)
class Streaming:
    """How one picture is labelled in pieces."""

    core: tuple[int, ...]
    margins: Margins
    threads: int
    scores_in_memory: bool
    piece: int
    """voxels of the picture that are measured and written at a time, where it is finer than what the network sees"""


class ScoreStore:
    """The scores of a picture, in memory or in a scratch file; the cores of tiles go straight to it."""

    def __init__(self, spec: ModelSpec, plan: Plan, path: Path | None) -> None:
        self._channels = {output.name: output.channels for output in spec.outputs}
        step = tuple(t - 2 * h for t, h in zip(plan.tile, plan.halo, strict=True))
        count = sum(self._channels.values())
        self._file = None if path is None else GridFile(path, count, plan.shape, step)
        self._array = np.empty((count, *plan.shape) if path is None else 0, np.uint16)

    def keep(self, core: Region, outputs: dict[str, Array]) -> None:
        """Store the core of a tile; any thread may."""
        values = np.empty((sum(self._channels.values()), *core.shape), np.uint16)
        for name, part in self._split(values).items():
            quantise(outputs[name], part)
        if self._file is not None:
            self._file.write(core, values)
        else:
            self._array[(slice(None), *core.slices)] = values

    def read(self, region: Region) -> Scores:
        """The scores of a box, as `predict` gives those of a picture."""
        if self._file is not None:
            return self._split(self._file.read(region))
        return self._split(self._array[(slice(None), *region.slices)])

    def _split(self, values: Array) -> Scores:
        parts: Scores = {}
        first = 0
        for name, count in self._channels.items():
            parts[name] = values[first : first + count]
            first += count
        return parts

    def close(self) -> None:
        """Remove the scratch file."""
        if self._file is not None:
            self._file.close()


def must_stream(source: ImageSource, session: Session, options: InferOptions) -> bool:
    """Whether labels and scores of `source` are more than the memory plan allows."""
    pictures = scenes(source, session.spec, options)
    plans = [plan_picture(scene.seen.shape, session, options) for scene in pictures]
    return memory_needed(source, pictures, plans, session) > ram_limit(options)


def plan_streaming(source: ImageSource, scene: Scene, session: Session, options: InferOptions) -> Streaming:
    """The largest blocks that the memory allows. ResourceError when not even one object and its surroundings fit."""
    allowed, margins = ram_limit(options), block_margins(session.spec)
    channels = source.shape[source.axes.index("C")] if "C" in source.axes else 1
    outputs = sum(output.channels for output in session.spec.outputs)
    raw_bytes = channels * max(4, source.dtype.itemsize)
    voxel_bytes = DECODE_BYTES + 2 * outputs + raw_bytes
    shape = scene.seen.shape
    in_memory = 2 * outputs * prod(shape) <= SCORE_SHARE * allowed
    for threads in range(min(MOST_THREADS, worker_count()), 0, -1):
        share = BLOCK_SHARE * allowed / threads
        core = choose_core(shape, margins, int(share / voxel_bytes))
        if core is not None:
            return Streaming(core, margins, threads, in_memory, int(share / (PIECE_BYTES + raw_bytes)))
    smallest = prod(min(n, 3 * margins.overlap) for n in shape) * voxel_bytes
    raise ResourceError(
        f"{source.name}: a block of {3 * margins.overlap} px a side needs about {smallest / BLOCK_SHARE / 1e9:.1f} GB "
        f"of memory, {allowed / 1e9:.1f} GB may be used: allow more with --max-ram."
    )


def stream_source(
    source: ImageSource,
    session: Session,
    options: InferOptions,
    stop: Stop,
    progress: Progress,
    stem: Path,
    *,
    is_zarr: bool,
) -> tuple[dict[str, Any], list[str]]:
    """As `infer_source` and `write_outputs`, with memory that does not grow with the source.

    Scores that do not fit and the blocks' own labels are in scratch files beside the outputs, which are removed at
    the end; those that a killed run left are removed at the start. The overlay shows the centre of the middle plane.
    Memory: the plan's, and about 200 bytes an object. Returns what is recorded, and the names of the outputs.
    """
    clock, begun = Clock(), time.perf_counter()
    pictures = scenes(source, session.spec, options)
    plans = [plan_picture(scene.seen.shape, session, options) for scene in pictures]
    how = plan_streaming(source, pictures[0], session, options)
    progress.begin(source.name, sum(len(plan.tiles) for plan in plans))
    axes, shape = label_axes(source, options)
    paths = [labels_path(stem, 4 * prod(shape), options, is_zarr=is_zarr), stem.with_name(stem.name + ".objects.csv")]
    overlay = stem.with_name(stem.name + ".overlay.png")
    unfit = objects = 0
    with writing(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
        for what in ("scores", "labels"):
            remove(_scratch(stem, what))  # of a run that was killed
    with ExitStack() as held:
        sink = held.enter_context(create_sink(paths[0], shape, axes, source.voxel_size_um))
        table: TableWriter | None = None
        for index, (scene, plan) in enumerate(zip(pictures, plans, strict=True)):
            with clock("scale"):
                intensities = measure_scene(scene.seen, session.spec.normalize)
            if intensities.not_finite:
                unfit += check_finite(source, intensities, options)
                scene = replace(scene, fill=True)
            job = _Picture(scene, plan, how, session.spec, stem, clock, stop)
            view = Window.central(scene.shape) if index == len(pictures) // 2 else None
            if intensities.constant:
                # nothing to see: the sink holds background where nothing is written
                progress.advance(len(plan.tiles))
                rows = job.table(*job.counters())
            else:
                with ExitStack() as scratch:
                    scores = job.scores(scratch)
                    with clock("network"):
                        seen, scale = scene.seen, intensities.scale
                        for done in predict_batches(tile_batches(plan), scores.keep, seen, session, plan, scale, stop):
                            progress.advance(len(done))
                    rows = job.finish(scores, scratch, sink, axes, objects, view)
            rows["label"] = rows["label"].astype(np.int64) + objects
            objects += len(rows["label"])
            if table is None:
                table = held.enter_context(TableWriter(paths[1], list(rows)))
            table.append(rows)
            if view is not None:
                write_png(overlay, view.draw(scene))
    run = describe_run(source, plans, objects, unfit, clock, time.perf_counter() - begun)
    blocks = len(plan_blocks(plans[0].shape, how.core, how.margins))
    run |= {"block": list(how.core), "overlap": how.margins.overlap, "blocks": blocks * len(pictures)}
    return run, [path.name for path in (*paths, overlay)]


@dataclass(frozen=True, slots=True)
class _Picture:
    """One picture on its way from scores to outputs."""

    scene: Scene
    plan: Plan
    how: Streaming
    spec: ModelSpec
    stem: Path
    clock: Clock
    stop: Stop

    def scores(self, scratch: ExitStack) -> ScoreStore:
        """A store for this picture's scores, closed with `scratch`."""
        store = ScoreStore(self.spec, self.plan, None if self.how.scores_in_memory else _scratch(self.stem, "scores"))
        scratch.callback(store.close)
        return store

    def finish(
        self,
        scores: ScoreStore,
        scratch: ExitStack,
        sink: LabelSink,
        axes: str,
        before: int,
        view: Window | None,
    ) -> Table:
        """Label in blocks; then renumber, write and measure them in one pass. `before`: objects of earlier pictures."""
        how, decoder, grid = self.how, self.spec.decoder, self.scene.grid
        blocks = plan_blocks(grid.network, how.core, how.margins)
        store = scratch.enter_context(BrickFile(_scratch(self.stem, "labels"), np.uint32))
        with self.clock("label"):
            found = label_blocks(
                lambda region: label(scores.read(region), decoder, self.spec.voxel_size_um),
                *(grid, blocks, how.margins, decoder, store, how.threads, self.stop),
            )
        raw, score = self.counters()
        with self.clock("write"):
            for number, piece, final, *measured in self._measured(found, scores):
                for total, part in zip((raw, score), measured, strict=True):
                    total.merge(part, found.names[number])
                final[final > 0] += np.uint32(before)
                place = self.scene.place(axes, piece)
                sink.write(place, final.reshape(place.shape))
                if view is not None:
                    view.take(piece, final)
        return self.table(raw, score)

    def counters(self) -> tuple[ObjectStatistics, ObjectStatistics]:
        """Empty measurements: of the channels of the file, and of the foreground score if the model has one."""
        scene = self.scene
        channels = scene.source.shape[scene.source.axes.index("C")] if "C" in scene.source.axes else 1
        return ObjectStatistics(scene.shape, channels), ObjectStatistics(scene.shape, int(self._scored))

    def table(self, raw: ObjectStatistics, score: ObjectStatistics) -> Table:
        """The rows of this picture."""
        mean = score.finish().intensity_mean[:, 0] / SCORE_STEPS if self._scored else None
        return object_columns(raw.finish(), mean, self.scene, self.spec)

    @property
    def _scored(self) -> bool:
        return any(output.name == "foreground" for output in self.spec.outputs)

    def _measured(
        self, found: BlockLabels, scores: ScoreStore
    ) -> Iterator[tuple[int, Region, Array, ObjectStatistics, ObjectStatistics]]:
        """For every block in order the pieces of its core on the picture's grid: the block's number, the piece, its
        final labels, and what was measured of the block's own labels there."""
        grid = self.scene.grid

        def one(item: tuple[int, Region]) -> tuple[int, Region, Array, ObjectStatistics, ObjectStatistics]:
            number, piece = item
            seen = grid.network_region(piece)
            labels = grid.to_image(found.local(number, seen), piece)
            raw, score = self.counters()
            if labels.any():
                raw.add(labels, self.scene.read_all_channels(piece), piece.start, workers=1)
                if self._scored:
                    foreground = grid.to_image(scores.read(seen)["foreground"][0], piece)
                    score.add(labels, foreground, piece.start, workers=1)
            return number, piece, found.names[number][labels], raw, score

        cores = enumerate(block.core for block in found.blocks)
        pieces = [(i, piece) for i, core in cores for piece in grid.image_region(core).pieces(self.how.piece)]
        return overlap(one, pieces, self.how.threads, self.stop)


def _scratch(stem: Path, what: str) -> Path:
    """Where a scratch file of the outputs `stem` lies."""
    return partial_name(stem, f"{what}.scratch")
