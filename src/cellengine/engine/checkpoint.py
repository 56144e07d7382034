"""What is finished inside one source that is labelled in blocks, so that a run that was killed goes on from there.

    .<stem>.scratch/
        log       a line a finished piece: its checksum, and JSON
        scores    the scores of tiles, in slots that are used again
        labels    the labels of blocks, what was measured of them, and what joins them

A line is written when what it speaks of is in its file; the system keeps both when the process is killed. Every few
seconds the log and the labels are forced to the disk. Scores, larger than the picture and soon written over, are not:
the disk would set the pace. After a power cut a line may be there without its data, or the other way round: checksums
tell, and what does not fit is computed again.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from cellengine.engine.journal import SCRATCH, differences
from cellengine.errors import InputError, UsageError
from cellengine.io.axes import Array
from cellengine.io.bricks import BrickFile, Place, pack_record
from cellengine.io.sink import partial_name, remove, writing
from cellengine.io.slots import SlotFile

Plain = dict[str, Any]

SYNC_EVERY_S = 3.0
"""most seconds of labelling that a power cut may cost, and the scores of a layer of tiles"""
CACHE_PART = 32
"""one part in so many of a run's memory keeps labels that were read last, when the network needs none any more"""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where the scores of a tile are, and their checksum."""

    number: int
    checksum: int


class Checkpoint:
    """The record of one source, open for more. Any thread may add to it.

    Closing keeps the files for the next run; `discard` removes them, and so does an input that cannot be read. Memory:
    about 300 bytes a block, and a tile of the picture in hand.
    """

    def __init__(self, folder: Path, head: Plain, lines: Iterator[Plain], cache_bytes: int) -> None:
        self.folder, self._head = folder, head
        self._intensities: dict[int, Plain] = {}
        self._tiles: dict[int, tuple[int, int, int]] = {}
        """slot -> picture, tile, checksum: a slot holds what was written last"""
        self._blocks: defaultdict[int, dict[int, Place]] = defaultdict(dict)
        for line in lines:
            self._take(line)
        self._lock, self._syncing = Lock(), Lock()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._log = (folder / "log").open("ab", buffering=0)
        self.scores = SlotFile(folder / "scores", int(self.plan.get("slot_bytes", 0)))
        self.labels = BrickFile(folder / "labels", cache_bytes)
        for blocks in self._blocks.values():
            for number in [n for n, place in blocks.items() if not self.labels.holds(place)]:
                del blocks[number]
        self._synced = time.monotonic()

    @property
    def plan(self) -> Plain:
        """How the source is cut, as decided when the run began."""
        plan: Plain = self._head["plan"]
        return plan

    def intensities(self, picture: int) -> Plain | None:
        """What was measured of a picture."""
        return self._intensities.get(picture)

    def blocks(self, picture: int) -> dict[int, Place]:
        """The finished blocks of a picture by number."""
        return self._blocks[picture]

    def tiles(self, picture: int) -> dict[int, Slot]:
        """The tiles of a picture by number whose scores may still be there: `scores.holds` tells."""
        items = self._tiles.items()
        return {tile: Slot(slot, checksum) for slot, (of, tile, checksum) in items if of == picture}

    def keep_intensities(self, picture: int, measured: Plain) -> None:
        """Note what was measured of a picture."""
        self._add({"picture": picture, "intensities": measured})

    def keep_tile(self, picture: int, tile: int, slot: Slot) -> None:
        """Note that the scores of a tile are in a slot, instead of what was there before."""
        self._add({"picture": picture, "tile": tile, "slot": slot.number, "checksum": slot.checksum})

    def keep_block(self, picture: int, block: int, labels: Array, tables: Mapping[str, Array]) -> None:
        """Store the labels of a block and what belongs to them."""
        self.keep_record(picture, block, pack_record(labels, tables))

    def keep_record(self, picture: int, block: int, record: bytes) -> None:
        """As `keep_block`, with what `pack_record` made of labels and tables."""
        place = self.labels.append_record(record)
        self._add({"picture": picture, "block": block, "place": [place.offset, place.length, place.checksum]})

    def close(self) -> None:
        """Close the files and leave them for the next run."""
        self._log.close()
        self.scores.close()
        self.labels.close()

    def discard(self) -> None:
        """Remove everything: the source is finished, or nothing of it can be used again."""
        self.close()
        remove(self.folder)

    def _take(self, line: Plain) -> None:
        picture = line["picture"]
        if "intensities" in line:
            self._intensities[picture] = line["intensities"]
        elif "tile" in line:
            self._tiles[line["slot"]] = (picture, line["tile"], line["checksum"])
        elif "block" in line:
            self._blocks[picture][line["block"]] = Place(*line["place"])

    def _add(self, line: Plain) -> None:
        with self._lock, writing(self.folder):
            self._log.write(_line(line))
            self._take(line)
        if time.monotonic() - self._synced > SYNC_EVERY_S and self._syncing.acquire(blocking=False):
            try:
                self._sync()
            finally:
                self._syncing.release()

    def _sync(self) -> None:
        self._synced = time.monotonic()
        self.labels.flush()
        with writing(self.folder):
            os.fdatasync(self._log.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, InputError):
            self.discard()
        else:
            self.close()


def scratch_folder(stem: Path) -> Path:
    """Where the checkpoint of the outputs `stem` lies."""
    return partial_name(stem, SCRATCH.removeprefix("."))


def holds_checkpoint(folder: Path, run: str) -> bool:
    """Whether an earlier call of `run` has begun to label in blocks there."""
    return _head(folder).get("run") == run


def is_of_other_input(folder: Path, fingerprint: Plain) -> bool:
    """Whether the record in `folder`, if there is one, is of an input that has changed."""
    return bool(differences(_head(folder).get("input", fingerprint), fingerprint))


def check_input(folder: Path, name: str, fingerprint: Plain) -> None:
    """Refuse to go on with the record in `folder`, if there is one, for an input that has changed; `name` is its name.

    Raises UsageError, which says what differs.
    """
    if changed := differences(_head(folder).get("input", fingerprint), fingerprint):
        raise UsageError(
            f"{folder.parent} holds an unfinished run of another {name} ({changed}): "
            "add --restart to replace it, or choose another -o."
        )


def open_checkpoint(folder: Path, name: str, run: str, fingerprint: Plain, plan: Plain, cache_bytes: int) -> Checkpoint:
    """Go on with the record in `folder`, or begin one with `plan`.

    A record of another `run` is worth nothing and is replaced. One of the same run whose input has another
    `fingerprint` is refused with a UsageError that says what differs; `name` is the input's. `cache_bytes`: memory for
    labels that were read last.
    """
    log = folder / "log"
    if (head := _head(folder)).get("run") == run:
        check_input(folder, name, fingerprint)
        return Checkpoint(folder, head, islice(_whole_lines(log), 1, None), cache_bytes)
    remove(folder)
    head = {"run": run, "input": fingerprint, "plan": plan}
    with writing(folder):
        folder.mkdir(parents=True)
        partial = partial_name(log)
        partial.write_bytes(_line(head))
        partial.replace(log)
    return Checkpoint(folder, json.loads(json.dumps(head)), iter(()), cache_bytes)


def _head(folder: Path) -> Plain:
    """The first line of the record in a folder: of which run and input it is, and the plan. Empty without one."""
    log = folder / "log"
    return next(_whole_lines(log), {}) if log.exists() else {}


def _line(value: Plain) -> bytes:
    text = json.dumps(value).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _whole_lines(log: Path) -> Iterator[Plain]:
    """The lines of a log that are as they were written, one by one; what a crash left of the last one is cut off."""
    end = 0
    with log.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            checksum, _, text = line[:-1].partition(b" ")
            if checksum == b"%08x" % zlib.crc32(text):
                yield json.loads(text)
    if end < log.stat().st_size:
        os.truncate(log, end)
