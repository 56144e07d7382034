"""`infer` for what does not fit in memory or takes long: in blocks, with a checkpoint; outputs written in pieces."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from cellengine.engine.assemble import Assembly, LabelledPicture
from cellengine.engine.blocks import Blocks
from cellengine.engine.checkpoint import CACHE_PART, Checkpoint, open_checkpoint, scratch_folder
from cellengine.engine.classify import CellClassifier
from cellengine.engine.flow import Stop, overlap
from cellengine.engine.measured import Measured, measure_once
from cellengine.engine.options import InferOptions
from cellengine.engine.outputs import labels_path
from cellengine.engine.overlay import Window
from cellengine.engine.pieces import Hands, OwnHands, Workpiece
from cellengine.engine.plan import Plan, plan_picture, ram_limit
from cellengine.engine.plan_blocks import AHEAD, WRITTEN_COPIES, Cut, Streaming, plan_streaming
from cellengine.engine.run import Clock, Progress, describe_run, label_axes
from cellengine.engine.scene import Scene, scenes
from cellengine.engine.schedule import tile_number
from cellengine.engine.scores import TileScores
from cellengine.engine.session import Session
from cellengine.geometry import Cells, Tile
from cellengine.io import ImageSource, TableWriter, create_sink, write_png
from cellengine.io.sink import writing
from cellengine.ops.spare import SpareMemory, release_free_memory
from cellengine.records import from_plain, to_plain


def stream_source(
    source: ImageSource,
    session: Session,
    options: InferOptions,
    stop: Stop,
    progress: Progress,
    stem: Path,
    *,
    is_zarr: bool,
    run: str = "",
    fingerprint: dict[str, Any] | None = None,
    then: Session | None = None,
    others: Callable[[Plan, Streaming, Path], Hands] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """As `infer_source` and `write_outputs`, with memory that does not grow with the source, and again after a crash.

    What is finished is in the folder `scratch_folder(stem)`, which the caller removes when the outputs are recorded;
    a call with the same `run` and `fingerprint` goes on from there. An input that cannot be read leaves nothing. The
    overlay shows the centre of the middle plane. `others`, given the plan and where the file of scores is, do the work
    on tiles and blocks instead of this process. Memory: the plan's, and about 80 bytes an object. Returns what is
    recorded, and the names of the outputs.
    """
    clock, begun = Clock(), time.perf_counter()
    pictures = scenes(source, session.spec, options)
    plan = plan_picture(pictures[0].seen.shape, session, options)
    how = plan_streaming(source, pictures[0], plan, session, options)
    with writing(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    folder = scratch_folder(stem)
    frozen, cache = to_plain(how.cut), ram_limit(options) // CACHE_PART
    with open_checkpoint(folder, source.name, run, fingerprint or {}, frozen, cache) as checkpoint:
        how = replace(how, cut=from_plain(Cut, checkpoint.plan))
        plan = replace(plan, tile=how.cut.tile, halo=how.cut.halo, batch=how.cut.batch)
        if others is None:
            hands: Hands = OwnHands(pictures, session, checkpoint.scores, how.threads)
        else:
            hands = others(plan, how, checkpoint.scores.path)
        work = _Work(source, session, options, plan, how, checkpoint, hands, clock, stop, progress)
        progress.begin(source.name, len(pictures) * len(plan.grid))
        cells = None if then is None else CellClassifier(source, then, session.spec, options, stop)
        for index, scene in enumerate(pictures):
            pictures[index] = work.label_picture(index, scene)
        objects, names = work.write(pictures, stem, is_zarr, cells)
    unfit = sum(work.measured[index].not_finite for index in range(len(pictures)))
    record = describe_run(source, [plan] * len(pictures), objects, unfit, clock, time.perf_counter() - begun)
    blocks = len(Cells(plan.shape, how.cut.core))
    record |= {"block": list(how.cut.core), "overlap": how.cut.margins.overlap, "blocks": blocks * len(pictures)}
    record |= {} if cells is None else cells.record()
    return record | {"tiles_from_earlier_runs": work.restored}, names


class _Work:
    """The state of one call: what it works on, with, and how far it is."""

    def __init__(
        self,
        source: ImageSource,
        session: Session,
        options: InferOptions,
        plan: Plan,
        how: Streaming,
        checkpoint: Checkpoint,
        hands: Hands,
        clock: Clock,
        stop: Stop,
        progress: Progress,
    ) -> None:
        self.source, self.session, self.options, self.plan, self.how = source, session, options, plan, how
        self.checkpoint, self.hands, self.clock, self.stop, self.progress = checkpoint, hands, clock, stop, progress
        self.measured: dict[int, Measured] = {}
        self.restored = 0

    @cached_property
    def blocks(self) -> Blocks:
        """The blocks of every picture: all have one shape."""
        return self.how.blocks(self.plan.shape)

    def label_picture(self, index: int, scene: Scene) -> Scene:
        """Bring every block of a picture into the checkpoint: the network computes tiles while blocks are labelled."""
        with self.clock("scale"):
            measured = measure_once(index, scene, self.session.spec.normalize, self.options, self.checkpoint)
        self.measured[index] = measured
        if measured.not_finite:
            scene = replace(scene, fill=True)
        tiles, finished = len(self.plan.grid), self.checkpoint.blocks(index)
        if measured.constant or len(finished) == len(self.blocks):
            # nothing to see, or all done: no network needs to be asked
            self.restored += 0 if measured.constant else tiles
            self.progress.advance(tiles)
            return scene
        schedule = self.how.schedule(self.plan)
        schedule.begin(finished)
        scores = TileScores(self.session.spec, self.plan, schedule, self.checkpoint, index)
        ready = schedule.arrived(scores.restore())
        self.restored += tiles - schedule.missing
        self.progress.advance(tiles - schedule.missing)

        cut = self.how.cut
        of = Workpiece(index, self.plan, cut.core, cut.margins, self.how.piece, measured)

        def compute(tiles: list[Tile]) -> list[int]:
            numbers = [tile_number(self.plan, tile.core) for tile in tiles]
            slots = scores.reserve(numbers)
            scores.keep(slots, self.hands.compute(of, numbers, slots))
            return numbers

        def finish(number: int) -> None:
            done = self.hands.label(of, number, scores.slots_of(number))
            self.clock.add(done.seconds)
            self.checkpoint.keep_record(index, number, done.record)
            scores.finish(number)

        batches = overlap(compute, schedule.batches(), self.hands.tiles_at_once, self.stop)
        waiting: deque[Future[None]] = deque()
        threads, spare = self.hands.blocks_at_once, SpareMemory()
        with ThreadPoolExecutor(threads, "label") as pool, closing(batches), self.clock("network"):
            try:
                waiting.extend(pool.submit(finish, number) for number in ready)
                for numbers in batches:
                    self.progress.advance(len(numbers))
                    waiting.extend(pool.submit(finish, number) for number in schedule.arrived(numbers))
                    _settle(waiting, AHEAD * threads)
                    spare.release()
                while waiting:
                    self.stop.check()
                    waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
        return scene

    def write(
        self, pictures: Sequence[Scene], stem: Path, is_zarr: bool, cells: CellClassifier | None
    ) -> tuple[int, list[str]]:
        """Join the blocks, and write labels, table and overlay; the number of objects, and the names of the files."""
        axes, shape = label_axes(self.source, self.options)
        path = labels_path(stem, 4 * prod(shape), self.options, is_zarr=is_zarr)
        table_path, overlay_path = (stem.with_name(stem.name + end) for end in (".objects.csv", ".overlay.png"))
        self.source.forget()
        release_free_memory()  # of the network and of blocks; what is joined takes the place
        with self.clock("join"):
            labelled = self._join(pictures)
        self.checkpoint.labels.forget()  # what was compared last is not what is written first
        release_free_memory()
        with self.clock("write"), ExitStack() as held:
            sink = held.enter_context(create_sink(path, shape, axes, self.source.voxel_size_um))
            table: TableWriter | None = None
            middle = len(labelled) // 2
            window = Window.central(labelled[middle].scene.shape)
            window.take(window.region, labelled[middle].labels(window.region))
            for index, picture in enumerate(labelled):
                for rows in picture.rows():
                    self.stop.check()
                    if cells is not None:
                        rows = cells.classify(index, rows)
                        if index == middle:
                            window.tell(rows["label"], rows["class"], cells.classes)
                    table = table or held.enter_context(TableWriter(table_path, list(rows)))
                    table.append(rows)
            regions = Cells.of_chunks(shape, sink.chunks, self.how.piece // WRITTEN_COPIES)
            assemble, spare = Assembly(axes, labelled).labels, SpareMemory()
            for region, labels in zip(regions, overlap(assemble, regions, self.how.threads, self.stop), strict=True):
                sink.write(region, labels)
                spare.release()
            self.checkpoint.labels.forget()
            release_free_memory()  # for the smaller levels of the sink
            write_png(overlay_path, window.draw(labelled[middle].scene))
        return sum(picture.count for picture in labelled), [p.name for p in (path, table_path, overlay_path)]

    def _join(self, pictures: Sequence[Scene]) -> list[LabelledPicture]:
        labelled: list[LabelledPicture] = []
        objects = 0
        for index, scene in enumerate(pictures):
            blocks = None if self.measured[index].constant else self.blocks
            stored = (self.checkpoint.labels, self.checkpoint.blocks(index))
            spec, threads = self.session.spec, self.how.threads
            labelled.append(LabelledPicture(scene, spec, blocks, *stored, objects, threads, self.stop))
            objects += labelled[-1].count
        return labelled


def _settle(waiting: deque[Future[None]], most: int) -> None:
    """Take what is finished, raise what went wrong, and wait until at most `most` are left."""
    while waiting and (waiting[0].done() or len(waiting) > most):
        waiting.popleft().result()
