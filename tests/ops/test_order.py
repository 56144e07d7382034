"""The radix sort is a stable sort, of any range of keys."""

from __future__ import annotations

import numpy as np
import pytest

from cellengine.ops.order import radix_sort


@pytest.mark.parametrize("n", [0, 1, 300, 9000])
@pytest.mark.parametrize(("low", "high"), [(7, 8), (2**31 - 7, 2**31 + 70_000), (0, 2**32)])
def test_keys_come_out_in_order_and_equal_ones_as_they_came(n: int, low: int, high: int) -> None:
    keys = np.random.default_rng(n).integers(low, high, n, dtype=np.uint32)
    order = np.argsort(keys, kind="stable")
    found, values = keys.copy(), np.arange(n, dtype=np.uint32)
    radix_sort(found, values, np.empty(n, np.uint32), np.empty(n, np.uint32))
    np.testing.assert_array_equal(values, order)
    np.testing.assert_array_equal(found, keys[order])
