"""Links between blocks, and numbers that depend on nothing but the picture."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label as connected

from cellengine.ops.stitch import Kept, agreeing, keep_core, number_blocks, sharing


def kept(*voxels: int) -> Kept:
    counts = np.array([0, *voxels], np.int64)
    return Kept(counts, np.where(counts > 0, np.cumsum(counts), -1))


def test_labels_agree_when_they_share_more_than_half() -> None:
    a = np.array([[1, 1, 1, 1, 0, 2, 2, 3]], np.uint32)
    b = np.array([[5, 5, 5, 0, 0, 6, 4, 4]], np.uint32)
    pairs = agreeing(a, b, kept(4, 2, 1), kept(1, 1, 1, 2, 3, 1))
    assert pairs.tolist() == [[1, 5]]  # 3 of 4; the others share half at most


def test_touching_labels_stay_two_and_half_is_not_enough() -> None:
    a = np.array([[1, 1, 2, 2]], np.uint32)
    b = np.array([[1, 1, 1, 1]], np.uint32)
    assert agreeing(a, b, kept(2, 2), kept(4)).size == 0


def test_labels_that_no_core_keeps_do_not_link() -> None:
    a = np.array([[1, 1, 1]], np.uint32)
    assert agreeing(a, a, kept(3), kept(0)).size == 0
    assert sharing(a, a).tolist() == [[1, 1]]


def test_places_beyond_32_bits() -> None:
    found = keep_core(np.array([[[0, 1], [2, 1]]], np.uint32), 3, (70_000, 50_000, 60_000), (80_000, 90_000, 100_000))
    row = (70_000 * 90_000 + 50_000) * 100_000 + 60_000
    assert found.first.tolist() == [-1, row + 1, row + 100_000, -1]
    assert found.voxels.tolist() == [0, 2, 1, 0]


def test_more_than_65535_objects() -> None:
    n = 100_000
    block = Kept(np.r_[0, np.ones(n, np.int64)], np.r_[-1, np.arange(n)[::-1]])
    names, count = number_blocks([block], [])
    assert count == n
    assert names[0][1] == n
    assert names[0][n] == 1


def test_small_objects_are_dropped_by_what_all_cores_keep() -> None:
    blocks = [Kept(np.array([0, 2, 3]), np.array([-1, 5, 0])), Kept(np.array([0, 2]), np.array([-1, 9]))]
    names, count = number_blocks(blocks, [(0, 1, np.array([[1, 1]]))], min_size_px=4)
    assert count == 1
    assert [n.tolist() for n in names] == [[0, 1, 0], [0, 1]]
    assert number_blocks([], []) == ([], 0)


@pytest.mark.parametrize("ndim", [2, 3])
@settings(max_examples=25)
@given(data=st.data())
def test_components_of_any_size_are_exact(ndim: int, data: st.DataObject) -> None:
    """Blocks of random cuts of a line of the first axis; links in any order."""
    shape = tuple(data.draw(st.integers(3, 12)) for _ in range(ndim))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    mask = rng.random(shape) < data.draw(st.sampled_from([0.2, 0.45, 0.6]))
    cuts = sorted(data.draw(st.sets(st.integers(1, shape[0] - 1), max_size=4)))
    edges = [0, *cuts, shape[0]]
    cores = list(pairwise(edges))
    reads = [(max(0, a - 1), min(shape[0], b + 1)) for a, b in cores]
    found = [connected(mask[a:b], connectivity=1).astype(np.uint32) for a, b in reads]
    rest = (0,) * (ndim - 1)
    blocks = [
        keep_core(f[a - r : b - r], int(f.max()), (a, *rest), shape)
        for f, (a, b), (r, _) in zip(found, cores, reads, strict=True)
    ]
    links = []
    for i in range(len(cores) - 1):
        low, high = reads[i + 1][0], reads[i][1]
        pairs = sharing(found[i][low - reads[i][0] :], found[i + 1][: high - low])
        links.append((i, i + 1, pairs))
    names, count = number_blocks(blocks, data.draw(st.permutations(links)))
    whole = np.concatenate(
        [n[f[a - r : b - r]] for n, f, (a, b), (r, _) in zip(names, found, cores, reads, strict=True)]
    )
    expected = connected(mask, connectivity=1)
    np.testing.assert_array_equal(whole, expected)
    assert count == expected.max()
