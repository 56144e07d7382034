"""What is drawn for a sample depends on its number and the seed alone."""

from __future__ import annotations

import numpy as np

from cellengine.train.chance import BLOCK, NUMBERS, Chance


def numbers(seed: int, number: int, count: int = 5) -> list[float]:
    chance = Chance(seed, number)
    return [chance.random() for _ in range(count)]


def test_the_same_sample_draws_the_same_in_any_order() -> None:
    first = {n: numbers(1, n) for n in (0, 1, BLOCK, 7 * BLOCK + 3)}
    assert all(numbers(1, n) == first[n] for n in reversed(first))
    assert len({tuple(v) for v in first.values()}) == len(first)
    assert numbers(2, 0) != first[0]
    for draw in (lambda chance: chance.normal((2, 30)).tolist(), lambda chance: chance.permutation(30)):
        assert draw(Chance(1, 3)) == draw(Chance(1, 3)) != draw(Chance(1, 4))
        assert draw(Chance(1, 3)) != draw(Chance(2, 3))


def test_numbers_are_spread_evenly_and_go_on_beyond_the_table() -> None:
    drawn = np.array([numbers(3, n, NUMBERS + 40) for n in range(300)])
    assert drawn.shape == (300, NUMBERS + 40)
    assert ((drawn >= 0) & (drawn < 1)).all()
    counts, _ = np.histogram(drawn, bins=10, range=(0, 1))
    assert np.abs(counts / drawn.size - 0.1).max() < 0.01
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.2
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.2


def test_ranges() -> None:
    chance = Chance(0, 0)
    assert {chance.integer(-1, 2) for _ in range(200)} == {-1, 0, 1}
    assert all(2.0 <= chance.uniform(2.0, 3.0) < 3.0 for _ in range(50))
