"""What labelling a source will take, before anything is done: the plan, memory, disk, and time where it is known."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path

from cellengine.engine.backends import available, kept_choice
from cellengine.engine.backends.choice import timed_voxels
from cellengine.engine.infer import memory_needed
from cellengine.engine.model_file import ModelFile
from cellengine.engine.options import InferOptions
from cellengine.engine.outputs import labels_path
from cellengine.engine.plan import Plan, network_bytes, plan_picture, ram_limit
from cellengine.engine.plan_blocks import AHEAD, Streaming, plan_streaming
from cellengine.engine.run import label_axes
from cellengine.engine.scene import scenes
from cellengine.engine.session import Session
from cellengine.errors import DiskFull
from cellengine.geometry import Cells
from cellengine.io import ImageSource
from cellengine.spec import ArgMax, Detections

LONG_S = 60.0
"""a run that takes longer keeps a checkpoint even when it fits in memory"""
ASSUMED_VOXELS_PER_S = 1e6
"""of a network whose speed here is not known: only decides what counts as long"""
PROGRAM_BYTES = 350 << 20
"""what the program itself takes: the interpreter, compiled kernels, the runtimes"""
PACKED = 0.05
"""size of label images after compression, as a share; dense tissue comes to this, most pictures to less"""


@dataclass(frozen=True, slots=True)
class Forecast:
    """How one source would be labelled, and what that takes."""

    name: str
    shape: tuple[int, ...]
    axes: str
    pictures: int
    plan: Plan
    streaming: Streaming | None
    """None: every picture in one piece, in memory"""
    memory_bytes: int
    """most memory of the process, estimated"""
    disk_bytes: int
    """most disk space at a time, estimated: scratch files and outputs"""
    resumable: bool
    """whether what is finished is kept on disk, so that a run that was killed goes on"""
    seconds: float | None
    """of the network; None when its speed on this machine was never timed"""

    @property
    def blocks(self) -> int:
        """Blocks of all pictures; 0 without blocks."""
        return 0 if self.streaming is None else self.pictures * len(Cells(self.plan.shape, self.streaming.cut.core))


def forecast(
    source: ImageSource,
    session: Session,
    options: InferOptions,
    stem: Path,
    *,
    is_zarr: bool,
    voxels_per_s: float | None,
    in_blocks: bool = False,
) -> Forecast:
    """Decide how `source` is labelled. `in_blocks`: whatever its size; `voxels_per_s`: of the network, if known.

    Raises what `scenes` and `plan_streaming` raise for sources that cannot be labelled.
    """
    pictures = scenes(source, session.spec, options)
    plan = plan_picture(pictures[0].seen.shape, session, options)
    voxels = len(pictures) * plan.tiled_voxels
    whole = memory_needed(source, pictures, [plan] * len(pictures), session)
    long = voxels / (voxels_per_s or ASSUMED_VOXELS_PER_S) > LONG_S
    _, shape = label_axes(source, options)
    labels = 4 * prod(shape)
    streaming = None
    memory, disk = PROGRAM_BYTES + whole, int(PACKED * labels)
    resumable = in_blocks or long or whole > ram_limit(options)
    if isinstance(session.spec.decoder, ArgMax):
        # a byte a voxel; tiles go straight to the output, or are kept compressed until all are there
        memory, disk = PROGRAM_BYTES + network_bytes(plan, session), disk // 4 * (2 if resumable else 1)
    elif isinstance(session.spec.decoder, Detections):
        memory = PROGRAM_BYTES + min(whole, network_bytes(plan, session) + ram_limit(options) // 4)  # or in pieces
        disk += labels if resumable else 0
    elif resumable:
        streaming = plan_streaming(source, pictures[0], plan, session, options)
        schedule = streaming.schedule(plan)
        disk += int(PACKED * labels) + schedule.most_kept(AHEAD * streaming.threads) * streaming.cut.slot_bytes
        if labels_path(stem, labels, options, is_zarr=is_zarr).suffix == ".tif":
            disk += labels  # a TIFF is put together from an uncompressed one
        memory = PROGRAM_BYTES + network_bytes(plan, session) + streaming.memory_bytes + ram_limit(options) // 16
    return Forecast(
        *(source.name, source.shape, source.axes, len(pictures), plan, streaming, memory, disk, resumable),
        seconds=None if voxels_per_s is None else voxels / voxels_per_s,
    )


def check_disk(expected: Forecast, folder: Path, used: int = 0) -> None:
    """Refuse what the disk of `folder` has no room for, before any work; `used`: bytes that are there already.

    Raises DiskFull.
    """
    free = shutil.disk_usage(folder).free + used
    if expected.disk_bytes > free:
        raise DiskFull(
            f"{expected.name}: labelling needs about {expected.disk_bytes / 1e9:.1f} GB on the disk of {folder}, "
            f"{free / 1e9:.1f} GB are free: free some space, or choose another -o."
        )


def network_speed(model: ModelFile, session: Session, asked: dict[str, str | None]) -> float | None:
    """Voxels a second that the network computes here, as timed when `auto` chose; None when it was never timed.

    asked: device, backend and precision as the user gave them.
    """
    device, backend = asked.get("device") or "auto", asked.get("backend") or "auto"
    _, choice = kept_choice(available(model, device=device, backend=backend, precision=asked.get("precision")))
    if choice is None:
        return None
    ran = (session.backend, session.device, session.precision)
    seconds = next((t.seconds for t in choice.timings if (t.backend, t.device, t.precision) == ran), None)
    return None if seconds is None else timed_voxels(session.spec) / seconds
