"""What a training run shows: metrics.csv, TensorBoard, curves.png and preview pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from skimage.segmentation import find_boundaries
from torch.utils.tensorboard import SummaryWriter

Array = np.ndarray[Any, Any]
T = TypeVar("T")
U = TypeVar("U")
Row = dict[str, float]

PANELS = 4
"""pictures in a preview"""


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
        _save(figure, self.folder / "curves.png")

    def preview(self, epoch: int, figure: Any) -> None:
        """Save a matplotlib figure as `preview_<epoch>.png` and close it."""
        _save(figure, self.folder / f"preview_{epoch:04d}.png")

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
        side = 0 if name.startswith("loss") else 1 if name.startswith("val") else None
        points = [(row["epoch"], row[name]) for row in history if name in row]
        if side is not None:
            axes[side].plot(*zip(*points, strict=True), label=name, marker="." if side else "")
    for axis, title in zip(axes, ("training loss", "validation"), strict=True):
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    return figure


def few(truth: Sequence[T], found: Sequence[U], count: int = PANELS) -> list[tuple[T, U]]:
    """A few pairs, evenly spread: the same ones at every validation."""
    step = max(1, len(truth) // count)
    return list(zip(truth, found, strict=True))[::step][:count]


def draw_labels(panels: Sequence[tuple[str, Array, Array, Array]]) -> Any:
    """A matplotlib figure, a row a picture: image, truth (green outlines) and prediction (red outlines).

    A panel is a name, the raw image (C, Y, X), true labels and predicted labels (Y, X).
    """
    figure, axes = plt.subplots(len(panels), 3, figsize=(9, 3 * len(panels)), squeeze=False, layout="constrained")
    for row, (name, image, truth, predicted) in zip(axes, panels, strict=True):
        base = _to_rgb(image)
        drawn = [base, _outline(base, truth, (0.1, 0.9, 0.2)), _outline(base, predicted, (1.0, 0.2, 0.2))]
        titles = [name, f"truth: {len(np.unique(truth)) - 1}", f"prediction: {len(np.unique(predicted)) - 1}"]
        for axis, picture, title in zip(row, drawn, titles, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
    return figure


def _to_rgb(image: Array) -> Array:
    low, high = np.percentile(image, (0.5, 99.8))
    scaled = ((image.astype(np.float32) - low) / max(high - low, 1e-6)).clip(0, 1)
    return np.moveaxis(np.broadcast_to(scaled[:3] if len(scaled) >= 3 else scaled[:1], (3, *scaled.shape[1:])), 0, -1)


def _outline(base: Array, labels: Array, colour: tuple[float, float, float]) -> Array:
    drawn = base.copy()
    drawn[find_boundaries(labels, mode="inner")] = colour
    return drawn


def _save(figure: Any, path: Path) -> None:
    partial = path.with_name(f".{path.stem}.partial.png")
    figure.savefig(partial, dpi=90)
    plt.close(figure)
    partial.replace(path)
