"""How fast do labels of blocks become labels of the whole, beside dask-image's `label` on the same blocks?

Both find the connected components of one mask in blocks and number them through the volume, on two threads, in memory.
The join alone is timed, too: theirs is what remains without the labelling of the blocks.
`pip install dask-image` for the peer.

python benchmarks/stitching.py [--side 384] [--block 128] [--runs 3]
"""

from __future__ import annotations

import argparse
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask_image.ndmeasure import label as dask_label
from scipy import ndimage

from _timing import paired, ratio, write_result
from cellengine.engine.blocks import Blocks, Margins, join_blocks, kept_in_core
from cellengine.engine.flow import Stop, overlap
from cellengine.engine.resample import Grid
from cellengine.geometry import Region
from cellengine.ops import components
from cellengine.ops.stitch import Kept
from cellengine.spec import Components

Array = np.ndarray[Any, Any]
THREADS = 2
MARGINS = Margins(1, 1)
"""components that share voxels are one whatever their size: one voxel that both blocks saw is enough"""
DECODER = Components(grow_px=0, min_size_px=0)


def mask_of(side: int) -> Array:
    """Pieces of all sizes, some through the whole volume: smoothed noise above its 65th percentile."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random((side,) * 3, dtype=np.float32), 3)
    return noise > np.percentile(noise, 65)


class Own:
    """This package's road, in the steps of `cellengine.engine.stream`."""

    def __init__(self, mask: Array, side: int) -> None:
        self.mask, self.grid = mask, Grid(mask.shape, mask.shape)
        self.blocks = Blocks(mask.shape, (side,) * 3, MARGINS)
        self.labels: list[Array] = []
        self.kept: list[Kept] = []

    def label(self) -> None:
        """Labels of every block, with its voxel of overlap."""
        self.labels = list(overlap(lambda b: components(self.mask[b.read.slices], workers=1),
                                   self.blocks, THREADS, Stop()))  # fmt: skip

    def join(self) -> Array:
        """Labels of the whole from those of the blocks."""
        pairs = list(zip(self.labels, self.blocks, strict=True))
        kept = list(overlap(lambda pair: kept_in_core(*pair, self.grid), pairs, THREADS, Stop()))
        grid, decoder = self.grid, DECODER
        names, self.count = join_blocks(self._read, kept, self.blocks, grid, decoder, THREADS, Stop())
        out = np.empty(self.mask.shape, np.uint32)

        def rename(number: int) -> None:
            core = self.blocks[number].core
            out[core.slices] = names[number][self._read(number, core)]

        list(overlap(rename, range(len(names)), THREADS, Stop()))
        return out

    def whole(self) -> Array:
        """All of it."""
        self.label()
        return self.join()

    def _read(self, number: int, region: Region) -> Array:
        return self.labels[number][region.relative_to(self.blocks[number].read)]


def same_objects(a: Array, b: Array) -> bool:
    """Whether two label images name the same sets of voxels: each label of one is always the same label of the other.

    Linear in the voxels; sorting the pairs of 56 million voxels takes minutes.
    """

    def follows(one: Array, other: Array) -> bool:
        name = np.zeros(int(one.max()) + 1, other.dtype)
        name[one.ravel()] = other.ravel()
        return bool((name[one] == other).all())

    return follows(a, b) and follows(b, a)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=384)
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    mask = mask_of(arguments.side)
    own = Own(mask, arguments.block)
    chunks = da.from_array(mask, chunks=(arguments.block,) * 3)
    corners = [block.core.slices for block in own.blocks]

    def theirs() -> Array:
        with dask.config.set(scheduler="threads", num_workers=THREADS):
            return np.asarray(dask_label(chunks)[0])

    def their_blocks() -> None:
        list(overlap(lambda corner: ndimage.label(mask[corner]), corners, THREADS, Stop()))

    figures: dict[str, Any] = {"side": arguments.side, "block": arguments.block, "blocks": len(corners)}
    figures["same_objects"] = same_objects(own.whole(), theirs())
    figures["objects"] = own.count
    steps = {"cellengine": own.whole, "dask-image": theirs, "cellengine join": own.join, "their blocks": their_blocks}
    times = paired(steps, arguments.runs)
    figures["seconds"] = times
    figures["times_faster"] = ratio(times, "dask-image", "cellengine")
    rest = [a - b for a, b in zip(times["dask-image"]["runs_s"], times["their blocks"]["runs_s"], strict=True)]
    join = times["cellengine join"]["runs_s"]
    figures["times_faster_join"] = float(np.median([a / b for a, b in zip(rest, join, strict=True)]))
    write_result("stitching", __doc__.partition("\n")[0], figures)


if __name__ == "__main__":
    main()
