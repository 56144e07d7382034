"""What the tests of data preparation share: data in the forms in which it is published, and reports read back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np


def write_kaggle(folder: Path, name: str, image: np.ndarray, labels: np.ndarray) -> Path:
    """One picture in the layout of the 2018 Data Science Bowl: RGBA, and one mask of 0 and 255 a nucleus."""
    place = folder / name
    (place / "images").mkdir(parents=True, exist_ok=True)
    (place / "masks").mkdir(exist_ok=True)
    colour = image if image.ndim == 3 else np.stack([image] * 3, axis=-1)
    alpha = np.full((*colour.shape[:2], 1), 255, np.uint8)
    iio.imwrite(place / "images" / f"{name}.png", np.concatenate([colour, alpha], axis=-1))
    for number in np.unique(labels[labels > 0]).tolist():
        iio.imwrite(place / "masks" / f"{number:03}.png", np.where(labels == number, 255, 0).astype(np.uint8))
    return place


def read_list(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_report(output: Path) -> dict[str, Any]:
    """report.json, after a look at whether the other files of the report are there and say the same."""
    report = json.loads((output / "report.json").read_text())
    rows = read_list(output / "defects.csv")
    assert [row["problem"] for row in rows] == [defect["problem"] for defect in report["defects"]]
    page = (output / "report.html").read_text()
    assert page.endswith("</html>\n")
    assert page.count("<td>") > len(rows)
    assert iio.imread(output / "overview.png").std() > 0
    return report


def problems(report: dict[str, Any]) -> dict[str, list[str]]:
    """What is wrong with each item."""
    found: dict[str, list[str]] = {}
    for defect in report["defects"]:
        found.setdefault(defect["item"], []).append(defect["problem"])
    return found


def names_in(output: Path) -> set[str]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
