"""What a training run shows: metrics.csv, TensorBoard, curves.png and preview pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from scipy import ndimage
from skimage.segmentation import find_boundaries
from torch.utils.tensorboard import SummaryWriter

Array = np.ndarray[Any, Any]
Row = dict[str, float]

PANELS = 4
"""pictures in a preview"""
MOST_SCORES = 60
"""objects in a panel beyond which their scores would hide them"""


class Report:
    """Writes one row an epoch and redraws the curves; `history` is what a checkpoint keeps to go on from."""

    def __init__(self, folder: Path, history: list[Row]) -> None:
        self.folder, self.history = folder, history
        folder.mkdir(parents=True, exist_ok=True)
        last = int(history[-1]["epoch"]) if history else 0
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=last + 1)

    def add(self, row: Row) -> None:
        """Append one epoch: write metrics.csv and curves.png whole and atomically, send the values to TensorBoard."""
        self.history.append(row)
        for name, value in row.items():
            if name != "epoch":
                self.board.add_scalar(name, value, int(row["epoch"]))
        self.board.flush()
        self._write_csv()
        figure = draw_curves(self.history)
        save_figure(figure, self.folder / "curves.png")

    def preview(self, epoch: int, figure: Any) -> None:
        """Save a matplotlib figure as `preview_<epoch>.png` and close it."""
        save_figure(figure, self.folder / f"preview_{epoch:04d}.png")

    def close(self) -> None:
        """Finish TensorBoard's file."""
        self.board.close()

    def _write_csv(self) -> None:
        names = list(dict.fromkeys(name for row in self.history for name in row))
        partial = self.folder / ".metrics.csv.partial"
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in self.history)
        partial.replace(self.folder / "metrics.csv")


def history_from_json(text: str) -> list[Row]:
    """The history as a checkpoint keeps it."""
    rows: list[Row] = json.loads(text)
    return rows


def draw_curves(history: Sequence[Mapping[str, float]]) -> Any:
    """A matplotlib figure: losses on the left, validation scores on the right, by epoch."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name in dict.fromkeys(n for row in history for n in row):
        side = 0 if name.startswith(("loss", "val_loss")) else 1 if name.startswith("val") else None
        points = [(row["epoch"], row[name]) for row in history if name in row]
        if side is not None:
            checked = name.startswith("val")
            axes[side].plot(
                *zip(*points, strict=True), "--" if checked and not side else "-", label=name, marker="." * checked
            )
    for axis, title in zip(axes, ("losses", "validation"), strict=True):
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    return figure


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a preview."""

    name: str
    image: Array
    """(C, *spatial), raw"""
    truth: Array
    """labels or class ids, (*spatial)"""
    predicted: Array
    scores: Array | None = None
    """of the predicted labels 1 ... n in order, where each object has one"""


def few(total: int, count: int = PANELS) -> frozenset[int]:
    """A few numbers below `total`, evenly spread: the same ones at every validation."""
    return frozenset(range(0, total, max(1, total // count))[:count])


def draw_labels(panels: Sequence[Panel]) -> Any:
    """A matplotlib figure, a row a picture: image, truth (green outlines) and prediction (red outlines).

    Of volumes a few planes are shown. Where there are scores each stands beside its object, up to MOST_SCORES.
    """
    rows = []
    for name, image, truth, predicted, _ in _planes(panels):
        base = _to_rgb(image)
        rows.append(
            (
                (name, base),
                (f"truth: {len(np.unique(truth)) - 1}", _outline(base, truth, (0.1, 0.9, 0.2))),
                (f"prediction: {len(np.unique(predicted)) - 1}", _outline(base, predicted, (1.0, 0.2, 0.2))),
            )
        )
    figure = _draw_rows(rows)
    for axis, (_, _, _, predicted, scores) in zip(figure.axes[2::3], _planes(panels), strict=True):
        if scores is not None:
            _write_scores(axis, predicted, scores)
    return figure


def draw_classes(panels: Sequence[Panel], classes: int) -> Any:
    """A matplotlib figure, a row a picture: image, true and predicted map of classes, a colour a class."""
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 1, classes))[:, :3]
    return _draw_rows(
        [
            ((name, _to_rgb(image)), ("truth", colours[truth]), ("prediction", colours[predicted]))
            for name, image, truth, predicted, _ in _planes(panels)
        ]
    )


def draw_crops(panels: Sequence[tuple[Array, int, Array]], classes: Sequence[str], columns: int = 6) -> Any:
    """A matplotlib figure of crops with their class and the predicted one, red where they differ.

    A panel is the raw image (C, Y, X), the true class and the probabilities of all classes.
    """
    rows = -(-max(1, len(panels)) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.6 * columns, 1.9 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (image, truth, probabilities) in zip(axes.flat, panels, strict=False):
        found = int(np.argmax(probabilities))
        axis.imshow(_to_rgb(image), interpolation="nearest")
        axis.set_title(
            f"{classes[truth]}: {classes[found]} {probabilities[found]:.2f}",
            fontsize=7,
            color="black" if found == truth else "red",
        )
    return figure


def _planes(panels: Sequence[Panel]) -> Iterator[tuple[str, Array, Array, Array, Array | None]]:
    """Pictures as they are; of each volume so many planes that PANELS rows come of it."""
    for panel in panels:
        if panel.truth.ndim == 2:
            yield panel.name, panel.image, panel.truth, panel.predicted, panel.scores
            continue
        count = max(1, PANELS // len(panels))
        for z in np.linspace(0, panel.truth.shape[0], count + 2).astype(int)[1:-1]:
            yield f"{panel.name} z {z}", panel.image[:, z], panel.truth[z], panel.predicted[z], panel.scores


def _draw_rows(rows: Sequence[Sequence[tuple[str, Array]]]) -> Any:
    figure, axes = plt.subplots(len(rows), 3, figsize=(9, 3 * len(rows)), squeeze=False, layout="constrained")
    for line, row in zip(axes, rows, strict=True):
        for axis, (title, picture) in zip(line, row, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
    return figure


def _write_scores(axis: Any, labels: Array, scores: Array) -> None:
    """Write the score of each label at the right upper corner of its box."""
    boxes = [(number, box) for number, box in enumerate(ndimage.find_objects(labels)) if box is not None]
    if len(boxes) > MOST_SCORES:
        return
    for number, (rows, columns) in boxes:
        axis.text(columns.stop, rows.start, f"{scores[number]:.2f}", fontsize=5, color="yellow", in_layout=False)


def _to_rgb(image: Array) -> Array:
    low, high = np.percentile(image, (0.5, 99.8))
    scaled = ((image.astype(np.float32) - low) / max(high - low, 1e-6)).clip(0, 1)
    return np.moveaxis(np.broadcast_to(scaled[:3] if len(scaled) >= 3 else scaled[:1], (3, *scaled.shape[1:])), 0, -1)


def _outline(base: Array, labels: Array, colour: tuple[float, float, float]) -> Array:
    drawn = base.copy()
    drawn[find_boundaries(labels, mode="inner")] = colour
    return drawn


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as PNG, whole or not at all, and close it."""
    partial = path.with_name(f".{path.stem}.partial.png")
    figure.savefig(partial, dpi=90)
    plt.close(figure)
    partial.replace(path)
