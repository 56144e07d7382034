"""One row an object: size, place, box, intensities, contact with the border. One pass, any number of blocks.

Sums of integers are exact and so are the sums of coordinates; float sums are taken in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellengine.errors import UsageError
from cellengine.ops.machine import LANES
from cellengine.ops.neighbours import check_connectivity, volume_shape
from cellengine.ops.tally import AREA, BORDER, COUNTS, count_rows, empty_table
from cellengine.ops.threads import run_threads, split_range, worker_count


@dataclass(frozen=True, slots=True)
class ObjectTable:
    """Measurements of the objects that were seen, one row each, in order of label. Lengths are in voxels."""

    label: NDArray[np.uint32]
    area: NDArray[np.int64]
    """number of voxels"""
    centroid: NDArray[np.float64]
    """(n, ndim), voxel centres at whole numbers"""
    bbox: NDArray[np.int64]
    """(n, 2 * ndim): lower corner, upper corner, half-open"""
    intensity_mean: NDArray[np.float64]
    """(n, channels), as the other intensities"""
    intensity_min: NDArray[np.float64]
    intensity_max: NDArray[np.float64]
    intensity_std: NDArray[np.float64]
    """population standard deviation"""
    touches_border: NDArray[np.bool_]
    """whether a voxel lies on the border of the whole image"""

    def __len__(self) -> int:
        return len(self.label)


class ObjectStatistics:
    """Measurements that grow block by block; blocks of one image may come in any order and must not overlap.

    ndim: 2 or 3; shape: of the whole image, to know its border; channels: of the intensity image (0 = none).
    Memory: (11 + 4 channels) * 8 bytes a label up to twice the largest one seen, so labels had better be dense.
    """

    def __init__(self, shape: Sequence[int], channels: int = 0) -> None:
        self.shape = tuple(int(n) for n in shape)
        check_connectivity(1, len(self.shape))
        self.channels = channels
        self._counts = np.zeros((0, COUNTS), np.int64)
        self._sums = np.zeros((0, 4 * channels), np.float64)

    def add(
        self,
        labels: NDArray[Any],
        intensity: NDArray[Any] | None = None,
        origin: Sequence[int] | None = None,
        *,
        workers: int | None = None,
    ) -> None:
        """Count a block of labels that lies at `origin` of the whole image (all zeros when left out).

        intensity: (channels, *labels.shape), or labels.shape when there is one channel. O(voxels), one pass.
        """
        if labels.ndim != len(self.shape):
            raise UsageError(f"Labels of {labels.ndim} axes were given for an image of shape {self.shape}.")
        block = np.ascontiguousarray(labels, np.uint32).reshape(-1)
        values = self._channel_block(intensity, labels.shape)
        shape, whole = volume_shape(labels.shape), volume_shape(self.shape)
        corner = [0] * len(self.shape) if origin is None else [int(o) for o in origin]
        place = (*[0] * (3 - len(corner)), *corner)
        rows = shape[0] * shape[1] if block.size else 0
        threads = min(worker_count(workers), max(1, block.size >> 16))
        # of several threads each counts into a table of its own, which is to stay small beside its voxels
        most = block.size // (8 * threads)

        def count(part: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
            line, end = part
            counts, sums = empty_table(min(1024, most), self.channels)
            while True:
                line, largest = count_rows(block, values, line, end, shape, place, whole, counts.ravel(), sums.ravel())
                if line == end or largest >= most:
                    return counts, sums, line
                counts, sums = _longer(counts, sums, min(2 * largest, most), self.channels)

        parts = split_range(rows, threads)
        if threads > 1:
            for k, (counts, sums, line) in enumerate(run_threads(count, parts, threads)):
                self._widen(len(counts))
                self._merge(counts, sums)
                parts[k] = line, parts[k][1]
        for line, end in parts:
            done = line
            while done < end:
                tables = self._counts.ravel(), self._sums.ravel()
                done, largest = count_rows(block, values, done, end, shape, place, whole, *tables)
                if done < end:
                    self._widen(largest + 1)

    def merge(self, other: ObjectStatistics, names: NDArray[Any] | None = None) -> None:
        """Take in what another one has counted of the same image.

        names: what each label of `other` is called here, 0 to leave it out, such as the labels of a block; several may
        have one name. O(labels of `other`).
        """
        if (self.shape, self.channels) != (other.shape, other.channels):
            raise UsageError("Only statistics of one image can be merged: shapes or channels differ.")
        if names is None:
            self._widen(len(other._counts))
            self._merge(other._counts, other._sums)
            return
        seen = np.flatnonzero(other._counts[:, AREA] > 0)
        seen = seen[names[seen] > 0]
        if len(seen):
            into = names[seen].astype(np.int64)
            self._widen(int(into.max()) + 1)
            self._scatter(other._counts[seen], other._sums[seen], into)

    @property
    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """All that was counted, to be kept elsewhere: what `restored` takes."""
        return self._counts, self._sums

    @classmethod
    def restored(cls, shape: Sequence[int], counts: NDArray[np.int64], sums: NDArray[np.float64]) -> ObjectStatistics:
        """Statistics of an image of `shape` from their `arrays`."""
        found = cls(shape, sums.shape[1] // 4)
        found._counts, found._sums = counts, sums
        return found

    def pop(self, labels: int) -> ObjectTable:
        """The table of the labels 1 ... `labels`, which are forgotten; `labels` + 1 is called 1 from now on.

        So an image of any size is measured in the memory of what is not finished yet.
        """
        self._widen(labels + 1)
        ready = ObjectStatistics.restored(self.shape, self._counts[: labels + 1], self._sums[: labels + 1])
        nothing = empty_table(1, self.channels)
        self._counts = np.concatenate([nothing[0], self._counts[labels + 1 :]])
        self._sums = np.concatenate([nothing[1], self._sums[labels + 1 :]])
        return ready.finish()

    def finish(self) -> ObjectTable:
        """The table of every label seen, in order."""
        seen = np.flatnonzero(self._counts[:, AREA] > 0)
        seen = seen[seen > 0]
        counts = self._counts[seen]
        axes = slice(3 - len(self.shape), 3)
        area = counts[:, AREA]
        sums = self._sums[seen].reshape(len(seen), self.channels, 4)
        mean = sums[:, :, 0] / area[:, None]
        variance = np.maximum(sums[:, :, 1] / area[:, None] - mean**2, 0)
        return ObjectTable(
            seen.astype(np.uint32),
            area,
            counts[:, 1:4][:, axes] / area[:, None],
            np.concatenate([counts[:, 4:7][:, axes], counts[:, 7:10][:, axes] + 1], axis=1),
            mean,
            sums[:, :, 2],
            sums[:, :, 3],
            np.sqrt(variance),
            counts[:, BORDER] > 0,
        )

    def _channel_block(self, intensity: NDArray[Any] | None, shape: tuple[int, ...]) -> NDArray[Any]:
        if intensity is None:
            intensity = np.zeros((0, *shape), np.float32)
        elif intensity.shape == shape:
            intensity = intensity[None]
        if intensity.shape != (self.channels, *shape):
            raise UsageError(
                f"Intensities of shape {intensity.shape} were given: expected {(self.channels, *shape)}, as the labels."
            )
        if intensity.dtype not in (np.uint8, np.uint16, np.float32) or not intensity.dtype.isnative:
            intensity = intensity.astype(np.float32)
        flat = np.ascontiguousarray(intensity).reshape(-1)
        return flat if flat.size >= LANES else np.concatenate([flat, np.zeros(LANES, flat.dtype)])

    def _widen(self, rows: int) -> None:
        if rows > len(self._counts):
            rows = max(rows, 3 * len(self._counts) // 2)
            self._counts, self._sums = _longer(self._counts, self._sums, rows, self.channels)

    def _merge(self, counts: NDArray[np.int64], sums: NDArray[np.float64]) -> None:
        mine, more = self._counts[: len(counts)], counts
        mine[:, :4] += more[:, :4]
        np.minimum(mine[:, 4:7], more[:, 4:7], out=mine[:, 4:7])
        np.maximum(mine[:, 7:], more[:, 7:], out=mine[:, 7:])
        own, new = (table.reshape(len(table), self.channels, 4) for table in (self._sums[: len(sums)], sums))
        own[:, :, :2] += new[:, :, :2]
        np.minimum(own[:, :, 2], new[:, :, 2], out=own[:, :, 2])
        np.maximum(own[:, :, 3], new[:, :, 3], out=own[:, :, 3])

    def _scatter(self, counts: NDArray[np.int64], sums: NDArray[np.float64], into: NDArray[np.int64]) -> None:
        """`_merge`, row i into row into[i]."""
        np.add.at(self._counts[:, :4], into, counts[:, :4])
        np.minimum.at(self._counts[:, 4:7], into, counts[:, 4:7])
        np.maximum.at(self._counts[:, 7:], into, counts[:, 7:])
        own, new = (table.reshape(len(table), self.channels, 4) for table in (self._sums, sums))
        np.add.at(own[:, :, :2], into, new[:, :, :2])
        np.minimum.at(own[:, :, 2], into, new[:, :, 2])
        np.maximum.at(own[:, :, 3], into, new[:, :, 3])


def measure_objects(
    labels: NDArray[Any], intensity: NDArray[Any] | None = None, *, workers: int | None = None
) -> ObjectTable:
    """Measure every object of a label image (y, x) or (z, y, x); intensity as in `ObjectStatistics.add`.

    Equals skimage.measure.regionprops_table (area, centroid, bbox, intensity_*). O(voxels), one parallel pass.
    """
    channels = 0 if intensity is None else 1 if intensity.shape == labels.shape else len(intensity)
    statistics = ObjectStatistics(labels.shape, channels)
    statistics.add(labels, intensity, workers=workers)
    return statistics.finish()


def _longer(
    counts: NDArray[np.int64], sums: NDArray[np.float64], rows: int, channels: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tables with more rows."""
    more_counts, more_sums = empty_table(rows, channels)
    more_counts[: len(counts)], more_sums[: len(sums)] = counts, sums
    return more_counts, more_sums
