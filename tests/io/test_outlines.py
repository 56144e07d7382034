"""Outlines as other programs read them: roifile for ImageJ's, the GeoJSON that QuPath opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
import tifffile

from cellengine.engine.outlines import write_outlines
from cellengine.geometry import Region
from cellengine.io import create_sink, write_table
from cellengine.io.outlines import Outline, OutlineKind, Part, RoiZipWriter
from cellengine.ops import measure_objects
from tests.synthetic import draw_cells

Array = np.ndarray[Any, Any]


def area(ring: list[list[float]]) -> float:
    x, y = np.array(ring, float).T
    return abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2))


def write(folder: Path, labels: Array, axes: str, kind: OutlineKind, **more: Any) -> Path:
    """Labels and their table as `infer` writes them, and the outlines."""
    with create_sink(folder / "a.labels.tif", labels.shape, axes) as sink:
        sink.write(Region.whole(labels.shape), labels)
    found = measure_objects(labels if axes in ("YX", "ZYX") else labels[0], np.zeros((1, *labels.shape), np.uint8))
    letters = axes.lower()
    table = {"label": found.label, "class": np.where(found.label % 2, "odd", "even")}
    for i, axis in enumerate(letters):
        table |= {f"bbox_{axis}0": found.bbox[:, i], f"bbox_{axis}1": found.bbox[:, i + len(letters)]}
    table["area_px"] = found.area
    write_table(folder / "a.objects.csv", table | more)
    return folder / write_outlines(kind, folder / "a", folder / "a.labels.tif", folder / "a.objects.csv")


@pytest.fixture
def labels() -> Array:
    found = draw_cells((120, 100), 30, 3)[1].astype(np.uint32)
    found[20:40, 20:40] = found.max() + 1
    found[25:30, 25:30] = 0  # a hole
    numbers = np.unique(found[found > 0])
    first = [int(np.flatnonzero(found == n)[0]) for n in numbers]
    order = np.zeros(int(found.max()) + 1, np.uint32)
    order[numbers[np.argsort(first)]] = np.arange(1, len(numbers) + 1)
    return order[found]


def test_geojson_as_qupath_reads_it(tmp_path: Path, labels: Array) -> None:
    collection = json.loads(write(tmp_path, labels, "YX", "geojson").read_text())
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == labels.max()
    assert len({feature["id"] for feature in collection["features"]}) == labels.max()
    for feature in collection["features"]:
        label = int(feature["properties"]["name"])
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "detection"
        assert feature["properties"]["classification"]["name"] == ("odd" if label % 2 else "even")
        assert feature["properties"]["measurements"]["area_px"] == (labels == label).sum()
        geometry = feature["geometry"]
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        assert all(ring[0] == ring[-1] for polygon in polygons for ring in polygon)
        covered = sum(area(polygon[0]) - sum(map(area, polygon[1:])) for polygon in polygons)
        assert covered == (labels == label).sum()
        assert "plane" not in geometry


def test_roi_zip_as_imagej_reads_it(tmp_path: Path, labels: Array) -> None:
    rois = roifile.roiread(write(tmp_path, labels, "YX", "imagej"))
    parts: dict[int, list[roifile.ImagejRoi]] = {}
    for roi in rois:
        assert roi.roitype == roifile.ROI_TYPE.POLYGON
        parts.setdefault(int(roi.name.partition("-")[0]), []).append(roi)
    assert sorted(parts) == list(range(1, labels.max() + 1))
    for label, mine in parts.items():
        y, x = np.nonzero(labels == label)
        assert (min(r.top for r in mine), min(r.left for r in mine)) == (y.min(), x.min())
        assert (max(r.bottom for r in mine), max(r.right for r in mine)) == (y.max() + 1, x.max() + 1)
        filled = 25 if label == labels[20, 20] else 0
        assert sum(area(r.coordinates().tolist()) for r in mine) == (labels == label).sum() + filled


def test_volumes_are_outlined_plane_by_plane(tmp_path: Path) -> None:
    labels = np.zeros((4, 20, 30), np.uint32)
    labels[1:3, 2:9, 3:10] = 1
    labels[2:4, 12:18, 15:25] = 2
    rois = roifile.roiread(write(tmp_path, labels, "ZYX", "imagej"))
    assert sorted((int(roi.name.partition("-")[0]), roi.z_position - 1) for roi in rois) == [
        (1, 1),
        (1, 2),
        (2, 2),
        (2, 3),
    ]
    collection = json.loads(write(tmp_path, labels, "ZYX", "geojson").read_text())
    assert sorted(f["geometry"]["plane"]["z"] for f in collection["features"]) == [1, 2, 2, 3]


def test_far_corners_keep_their_place(tmp_path: Path) -> None:
    ring = np.array([[40_000, 50_000], [40_010, 50_000], [40_010, 50_007], [40_000, 50_007]], np.int32)
    with RoiZipWriter(tmp_path / "far.zip") as writer:
        writer.add(Outline(7, [Part(ring)], t=2))
        writer.add(Outline(8, [Part(ring)]))
    first, _ = roifile.roiread(tmp_path / "far.zip")
    assert np.array_equal(first.coordinates(), ring)
    assert first.t_position == 3


def test_the_same_objects_give_the_same_bytes(tmp_path: Path, labels: Array) -> None:
    for kind in ("geojson", "imagej"):
        once = write(tmp_path, labels, "YX", kind).read_bytes()
        assert write(tmp_path, labels, "YX", kind).read_bytes() == once


def test_a_picture_without_objects(tmp_path: Path) -> None:
    empty = np.zeros((9, 9), np.uint32)
    assert json.loads(write(tmp_path, empty, "YX", "geojson").read_text())["features"] == []
    assert not roifile.roiread(write(tmp_path, empty, "YX", "imagej"))
    assert tifffile.imread(tmp_path / "a.labels.tif").shape == (9, 9)
