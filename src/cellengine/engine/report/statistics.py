"""Numbers of a table of objects of any length, gathered block by block: counts, distributions, outliers, cut cells."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cellengine.io.columns import read_columns, read_header

Array = np.ndarray[Any, Any]
Plain = dict[str, Any]

STEPS_PER_OCTAVE = 8
"""of logarithmic histograms: a bin is 9 % wide"""
SCORE_BINS = 40
MOST_EXTREME = 8
"""objects that are kept of each kind: largest, smallest, most doubtful"""
WINDOW_PX = 256
"""side of the places that are compared for doubtful objects"""
DOUBTFUL = 0.7
"""objects with a lower score are doubtful"""
MOST_WINDOWS = 20_000
"""places that are compared at a time; beyond, the less doubtful half is forgotten"""
SEAM_REACH = 8
"""px on both sides of a seam that are compared with the seam itself"""


class Histogram:
    """Counts of positive numbers in bins of equal ratio; zeros and less are counted apart. Any range, some KB."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.not_positive = 0
        self.number, self.total = 0, 0.0

    def add(self, values: Array) -> None:
        """Count values; NaN are left out."""
        values = values[np.isfinite(values)]
        positive = values[values > 0]
        self.number += len(values)
        self.total += float(values.sum())
        self.not_positive += len(values) - len(positive)
        if len(positive):
            bins = np.floor(np.log2(positive) * STEPS_PER_OCTAVE).astype(np.int64)
            found, counts = np.unique(bins, return_counts=True)
            self.counts.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))

    def quantile(self, share: float) -> float | None:
        """The value below which `share` of the counted numbers lie, to within a bin; None of none."""
        wanted, passed = share * self.number, self.not_positive
        if not self.number:
            return None
        if passed and passed >= wanted:
            return 0.0
        for step in sorted(self.counts):
            passed += self.counts[step]
            if passed >= wanted:
                return float(2 ** ((step + 0.5) / STEPS_PER_OCTAVE))
        return None

    def bars(self, most: int = 60) -> tuple[list[float], list[int]]:
        """Edges and counts from the first to the last bin, neighbours joined until there are at most `most`."""
        if not self.counts:
            return [0.0, 1.0], [0]
        first, last = min(self.counts), max(self.counts)
        joined = max(1, math.ceil((last - first + 1) / most))
        counts = [sum(self.counts.get(step + i, 0) for i in range(joined)) for step in range(first, last + 1, joined)]
        return [float(2 ** ((first + i * joined) / STEPS_PER_OCTAVE)) for i in range(len(counts) + 1)], counts

    def plain(self) -> Plain:
        """For report.json; quantiles are exact to within a bin."""
        edges, counts = self.bars()
        shares = {"p05": 0.05, "median": 0.5, "p95": 0.95}
        return {
            "count": self.number,
            "mean": self.total / self.number if self.number else None,
            **{name: self.quantile(share) for name, share in shares.items()},
            "edges": edges,
            "counts": counts,
        }


@dataclass(frozen=True, slots=True)
class Place:
    """One object, or a window, that is worth a look."""

    file: str
    at: Mapping[str, int]
    """place on the axes t and z, where the table has them"""
    centre: tuple[float, ...]
    """px, in the order of the spatial axes"""
    side: float
    """px of what should be seen around the centre"""
    value: float
    """its size, or its score"""
    label: int | None = None
    """of an object; None of a window"""


@dataclass(slots=True)
class Extremes:
    """The few objects with the highest rank."""

    kept: list[tuple[float, int, Place]] = field(default_factory=list)
    """rank, number of the offer, place: of equal ones the first stays"""
    offers: int = 0

    def offer(self, ranks: Array, make: Mapping[str, Any]) -> None:
        """Look at a block: the highest of `ranks` become places by `make`, which has the columns of `_place`."""
        few = (
            np.argpartition(ranks, -MOST_EXTREME)[-MOST_EXTREME:]
            if len(ranks) > MOST_EXTREME
            else np.arange(len(ranks))
        )
        for i in few.tolist():
            if math.isfinite(ranks[i]) and (len(self.kept) < MOST_EXTREME or ranks[i] > self.kept[0][0]):
                self.offers += 1
                heapq.heappush(self.kept, (float(ranks[i]), -self.offers, _place(make, i)))
                if len(self.kept) > MOST_EXTREME:
                    heapq.heappop(self.kept)

    def places(self) -> list[Place]:
        """Highest first."""
        return [place for *_, place in sorted(self.kept, reverse=True)]


@dataclass(slots=True)
class Seams:
    """Whether objects end where tiles met: edges of boxes on seams, beside those a few pixels off."""

    on: int = 0
    near: int = 0

    def add(self, edges: Array, length: int, step: int) -> None:
        """Edges of boxes along an axis of `length` px whose tiles meet every `step` px."""
        if step < 4 * SEAM_REACH or length <= step:
            return
        inside = edges[(edges > step // 2) & (edges < (length - 1) // step * step + step // 2)]
        off = (inside + step // 2) % step - step // 2
        self.on += int((off == 0).sum())
        self.near += int(((np.abs(off) <= SEAM_REACH) & (off != 0)).sum())

    def plain(self) -> Plain:
        """`excess`: edges on seams beyond what their surroundings let expect, as a share of that; 0 is none."""
        expected = self.near / (2 * SEAM_REACH)
        beyond = self.on - expected - 3 * math.sqrt(expected + 1)
        return {
            "edges_on_seams": self.on,
            "edges_expected": round(expected, 2),
            "excess": round(max(0.0, beyond) / max(1.0, expected), 4),
        }


class RunStatistics:
    """All tables of a run. `add_file` reads one; memory is the same for any number of files and objects."""

    def __init__(self) -> None:
        self.size, self.score = Histogram(), np.zeros(SCORE_BINS, np.int64)
        self.intensity: dict[str, Histogram] = {}
        self.classes: Counter[str] = Counter()
        self.border = 0
        self.unit = "px"
        self.largest, self.smallest, self.doubtful, self.windows = Extremes(), Extremes(), Extremes(), Extremes()
        self.seams = Seams()

    @property
    def objects(self) -> int:
        """Objects so far."""
        return self.size.number

    def add_file(self, name: str, record: Mapping[str, Any], table: Path) -> None:
        """Read a table of objects. `record`: what run.json says of the input.

        A table without boxes and sizes is left out.
        """
        header = read_header(table)
        extent = next((column for column in ("area_px", "volume_px") if column in header), None)
        if extent is None or "bbox_x0" not in header:
            return
        sized = next((column for column in ("area_um2", "volume_um3") if column in header), extent)
        self.unit = {"area_um2": "um2", "volume_um3": "um3"}.get(sized, "px")
        axes = [axis for axis in "zyx" if f"bbox_{axis}0" in header]
        lead = [axis for axis in ("t", "z") if axis in header and axis not in axes]
        windows: dict[tuple[int, ...], float] = {}
        for block in _numbers(table, header, axes, extent, sized):
            self._add(name, block, extent, sized, axes)
            self._add_seams(record, block, axes)
            if "score" in block:
                _add_windows(windows, block, lead, axes)
        if windows:
            self.windows.offer(*_ranked(name, windows, lead, axes))

    def _add(self, name: str, block: Mapping[str, Array], extent: str, sized: str, axes: Sequence[str]) -> None:
        self.size.add(block[sized])
        for column in block:
            if column.startswith("intensity_mean"):
                self.intensity.setdefault(column.removeprefix("intensity_mean_"), Histogram()).add(block[column])
        if "class" in block:
            self.classes.update(block["class"].tolist())
        self.border += int(block["touches_border"].sum())
        make = {"file": name, "axes": axes, "value": block[extent], **block}
        inside = block["touches_border"] == 0
        size = block[extent]
        self.largest.offer(size, make)
        self.smallest.offer(np.where(inside, -size, -np.inf), make)
        if "score" in block:
            score = block["score"].clip(0, 1)
            self.score += np.histogram(score, SCORE_BINS, (0, 1))[0]
            self.doubtful.offer(np.where(inside, -score, -np.inf), make | {"value": score})

    def _add_seams(self, record: Mapping[str, Any], block: Mapping[str, Array], axes: Sequence[str]) -> None:
        lengths = [n for axis, n in zip(record["axes"].lower(), record["shape"], strict=True) if axis in axes]
        if lengths[-len(record["tile"]) :] != list(record["network_shape"]):
            return  # tiles were cut at another voxel size: their seams lie between voxels
        cores = [t - 2 * h for t, h in zip(record["tile"], record["halo"], strict=True)]
        for steps in (cores, record.get("block") or []):
            for axis, length, step in zip(reversed(axes), reversed(lengths), reversed(steps), strict=False):
                for end in "01":
                    self.seams.add(block[f"bbox_{axis}{end}"], length, step)

    def plain(self) -> Plain:
        """For report.json."""
        return {
            "objects": self.objects,
            "touching_border": self.border,
            "classes": dict(sorted(self.classes.items())),
            "size": {"unit": self.unit, **self.size.plain()},
            "intensity": {channel: counted.plain() for channel, counted in sorted(self.intensity.items())},
            "score": self.score.tolist() if self.score.any() else [],
            "seams": self.seams.plain(),
            "largest": [_described(place) for place in self.largest.places()],
            "smallest": [_described(place) for place in self.smallest.places()],
            "doubtful": [_described(place) for place in self.doubtful.places()],
            "doubtful_places": [_described(place) for place in self.windows.places()],
        }


def _numbers(
    table: Path, header: Sequence[str], axes: Sequence[str], extent: str, sized: str
) -> Iterator[dict[str, Array]]:
    """Blocks of the columns that are looked at, as numbers; `class` as texts."""
    boxes = [f"bbox_{axis}{end}" for axis in axes for end in "01"]
    optional = [n for n in ("t", "z", "score", "class") if n in header and n not in axes]
    means = [name for name in header if name.startswith("intensity_mean")]
    names = list(dict.fromkeys(["label", *boxes, extent, sized, "touches_border", *optional, *means]))
    for block in read_columns(table, names):
        yield {
            name: np.array(cells) if name == "class" else np.array(cells, dtype=np.float64)
            for name, cells in block.items()
        }


def _place(make: Mapping[str, Any], i: int) -> Place:
    corners = [(float(make[f"bbox_{axis}0"][i]), float(make[f"bbox_{axis}1"][i])) for axis in make["axes"]]
    return Place(
        make["file"],
        {axis: int(make[axis][i]) for axis in ("t", "z") if axis in make and axis not in make["axes"]},
        tuple((a + b) / 2 for a, b in corners),
        make.get("side") or max(b - a for a, b in corners[-2:]),
        float(make["value"][i]),
        int(make["label"][i]) if "label" in make else None,
    )


def _add_windows(
    windows: dict[tuple[int, ...], float], block: Mapping[str, Array], lead: Sequence[str], axes: Sequence[str]
) -> None:
    """Add up the doubt by place: t and z of the picture, or z of the centre, and windows in y and x."""
    weak = block["score"] < DOUBTFUL
    if not weak.any():
        return
    centre = [(block[f"bbox_{axis}0"] + block[f"bbox_{axis}1"])[weak] / 2 for axis in axes]
    where = [*(block[axis][weak] for axis in lead), *centre[:-2], *(values // WINDOW_PX for values in centre[-2:])]
    keys, back = np.unique(np.stack(where, 1).astype(np.int64), axis=0, return_inverse=True)
    doubt = np.bincount(back.ravel(), DOUBTFUL - block["score"][weak], len(keys))
    for key, value in zip(map(tuple, keys.tolist()), doubt.tolist(), strict=True):
        windows[key] = windows.get(key, 0.0) + value
    if len(windows) > MOST_WINDOWS:
        # rows come in order of place: most of what is dropped is complete, and no candidate
        for key, _ in heapq.nsmallest(len(windows) // 2, windows.items(), key=lambda item: item[1]):
            del windows[key]


def _ranked(
    name: str, windows: Mapping[tuple[int, ...], float], lead: Sequence[str], axes: Sequence[str]
) -> tuple[Array, dict[str, Any]]:
    """The windows of a file as columns of places, with the doubt in each."""
    keys, ranks = np.array(list(windows), np.float64), np.array(list(windows.values()))
    make: dict[str, Any] = {"file": name, "axes": axes, "value": ranks, "side": float(WINDOW_PX)}
    for column, axis in enumerate([*lead, *axes]):
        if axis in lead:
            make[axis] = keys[:, column]
        else:
            scale = WINDOW_PX if axis in "yx" else 1
            make[f"bbox_{axis}0"], make[f"bbox_{axis}1"] = keys[:, column] * scale, (keys[:, column] + 1) * scale
    return ranks, make


def _described(place: Place) -> Plain:
    plain: Plain = {"file": place.file, **place.at}
    if place.label is not None:
        plain["label"] = place.label
    axes = "zyx"[-len(place.centre) :]
    return plain | {axis: round(c, 1) for axis, c in zip(axes, place.centre, strict=True)} | {"value": place.value}
