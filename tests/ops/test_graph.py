"""The region graph counts faces, agglomeration is the plain rule, and the boundary road finds the cells of tissue."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from cellengine.errors import UsageError
from cellengine.ops import RegionGraph, agglomerate, boundary_watershed, merge_regions, region_graph, relabel

label_images = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=8).flatmap(
    lambda shape: hnp.arrays(np.uint32, shape, elements=st.sampled_from([0, 1, 2, 3, 9, 2**31]))
)


def slow_graph(labels: np.ndarray, boundary: np.ndarray) -> dict[tuple[int, int], tuple[int, float]]:
    contacts: dict[tuple[int, int], tuple[int, float]] = {}
    for voxel in np.ndindex(labels.shape):
        for axis in range(labels.ndim):
            other = tuple(v + (a == axis) for a, v in enumerate(voxel))
            if other[axis] < labels.shape[axis] and labels[voxel] != labels[other] and labels[voxel] and labels[other]:
                pair = (int(min(labels[voxel], labels[other])), int(max(labels[voxel], labels[other])))
                faces, total = contacts.get(pair, (0, 0.0))
                contacts[pair] = (faces + 1, total + (float(boundary[voxel]) + float(boundary[other])) / 2)
    return contacts


def slow_agglomerate(contacts: dict[tuple[int, int], tuple[int, float]], threshold: float) -> dict[int, int]:
    """Look for the weakest contact, merge it, begin again."""
    into: dict[int, int] = {}
    while contacts:
        mean, a, b = min((total / faces, *pair) for pair, (faces, total) in contacts.items())
        if not mean < threshold:
            break
        into = {label: a if name == b else name for label, name in into.items()} | {b: a}
        merged: dict[tuple[int, int], tuple[int, float]] = {}
        for (p, q), (faces, total) in contacts.items():
            p, q = sorted((a if p == b else p, a if q == b else q))
            if p != q:
                before = merged.get((p, q), (0, 0.0))
                merged[p, q] = (before[0] + faces, before[1] + total)
        contacts = merged
    return into


@settings(max_examples=50, deadline=None)
@given(label_images, st.sampled_from([1, 3]), st.integers(0, 8))
def test_graph_and_agglomeration_are_their_definitions(labels: np.ndarray, workers: int, threshold: int) -> None:
    # eighths add up exactly in any order
    boundary = np.random.default_rng(labels.size).integers(0, 9, labels.shape).astype(np.float32) / 8
    graph = region_graph(labels, boundary, workers=workers)
    expected = slow_graph(labels, boundary)
    rows = zip(graph.pairs.tolist(), graph.faces.tolist(), graph.total.tolist(), strict=True)
    assert {tuple(pair): (faces, total) for pair, faces, total in rows} == expected
    assert agglomerate(graph, threshold / 8) == slow_agglomerate(expected, threshold / 8)


def test_graphs_of_blocks_add_up() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 5, (12, 9)).astype(np.uint32)
    boundary = rng.integers(0, 9, labels.shape).astype(np.float32)
    # the second block begins on the last row of the first, whose own faces are taken out once
    first, seam, second = labels[:7], labels[6:7], labels[6:]
    parts = region_graph(first, boundary[:7]).merge(region_graph(second, boundary[6:]))
    once = region_graph(seam, boundary[6:7])
    whole = region_graph(labels, boundary).merge(once)
    for name in RegionGraph.__slots__:
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_merge_regions_joins_across_weak_boundaries() -> None:
    labels = np.repeat([[1, 2, 3]], 4, axis=0).repeat(4, axis=1).astype(np.uint32)
    boundary = np.zeros(labels.shape, np.float32)
    boundary[:, 7:9] = 1
    np.testing.assert_array_equal(merge_regions(labels, boundary, 0.5), np.where(labels == 3, 2, 1))


def test_boundary_watershed_finds_the_rooms_between_walls() -> None:
    walls = np.zeros((41, 61), np.float32)
    walls[::20] = walls[:, ::20] = 0.9
    rooms = relabel(ndimage.label(walls == 0)[0].astype(np.uint32))
    found = boundary_watershed(walls, min_distance_px=5)
    assert found.max() == 6
    np.testing.assert_array_equal(found[walls == 0], rooms[walls == 0])
    assert (found > 0).all()
    # a wall that is only a hint: the rooms on both its sides become one
    walls[:, 20] *= 0.5
    assert boundary_watershed(walls, min_distance_px=5, merge_below=0.3).max() == 4


def test_voxel_size_decides_what_is_near() -> None:
    walls = np.zeros((9, 30, 30), np.float32)
    walls[[0, -1]] = walls[:, [0, -1]] = walls[:, :, [0, -1]] = 1
    assert boundary_watershed(walls, voxel_size=(4, 1, 1), min_distance_px=4).max() == 1
    with pytest.raises(UsageError, match="voxel_size"):
        boundary_watershed(walls, voxel_size=(1, 1))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_boundaries(value: float) -> None:
    labels = boundary_watershed(np.full((8, 8), value))
    assert labels.max() == (1 if value == 0 else 0)


def test_real_tissue_from_true_boundaries(data: Path) -> None:
    """Cells of a real ovule come back from boundaries drawn of their own labels."""
    with h5py.File(next((data / "volumes" / "ovule_cells").glob("*.h5"))) as file:
        truth = relabel(file["label"][:16, :96, :96])
    edges = np.zeros(truth.shape, bool)
    for axis in range(3):
        differ = np.diff(truth.astype(int), axis=axis) != 0
        edges |= np.pad(differ, [(0, int(a == axis)) for a in range(3)]) | np.pad(
            differ, [(int(a == axis), 0) for a in range(3)]
        )
    boundary = ndimage.gaussian_filter(edges.astype(np.float32), 0.7)
    found = boundary_watershed(boundary, smoothing_px=1.0, min_distance_px=4, merge_below=0.35)
    overlap = np.zeros((truth.max() + 1, found.max() + 1), int)
    np.add.at(overlap, (truth.ravel(), found.ravel()), 1)
    union = overlap.sum(0) + overlap.sum(1)[:, None] - overlap
    large = np.bincount(truth.ravel()) > 500
    assert ((overlap / np.maximum(union, 1)).max(axis=1)[large] > 0.5).mean() > 0.8
