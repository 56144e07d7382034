"""Frozen dataclasses from plain data: nothing is dropped, nothing is guessed, every typo is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from cellengine.records import RecordError, from_plain, to_plain


@dataclass(frozen=True, slots=True)
class Round:
    kind: Literal["round"] = "round"
    radius_px: float = 1.0


@dataclass(frozen=True, slots=True)
class Square:
    kind: Literal["square"] = "square"
    side_px: int = 1


@dataclass(frozen=True, slots=True)
class Rows:
    where: dict[str, str | tuple[str, ...]]


def test_of_several_kinds_the_error_is_that_of_the_one_that_was_meant() -> None:
    assert from_plain(Rows, {"where": {"a": "x", "b": ["x", "y"]}}) == Rows({"a": "x", "b": ("x", "y")})
    for value, message in (
        (3, "where.a: found 3, expected a text"),
        (["x", 2], r"where.a\[1\]: found 2, expected a text"),
    ):
        with pytest.raises(RecordError, match=message):
            from_plain(Rows, {"where": {"a": value}})


@dataclass(frozen=True, slots=True)
class Drawing:
    name: str
    size: tuple[int, int]
    shape: Round | Square = field(default_factory=Round)
    points: tuple[float, ...] = ()
    note: str | None = None
    weights: dict[str, float] = field(default_factory=dict)


def test_round_trip() -> None:
    drawing = Drawing("a", (3, 4), Square(side_px=2), (1.0, 2.5), None, {"x": 0.5})
    assert from_plain(Drawing, to_plain(drawing)) == drawing


def test_an_unknown_key_names_the_known_ones() -> None:
    with pytest.raises(
        RecordError, match=r"Unknown setting colour; known here: name, note, points, shape, size, weights"
    ):
        from_plain(Drawing, {"name": "a", "size": [1, 2], "colour": "red"})


def test_an_unknown_key_inside_names_its_place() -> None:
    with pytest.raises(RecordError, match=r"Unknown setting shape\.radius; known here: kind, radius_px"):
        from_plain(Drawing, {"name": "a", "size": [1, 2], "shape": {"kind": "round", "radius": 2}})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"size": [1, 2]}, "The setting name is missing"),
        ({"name": 3, "size": [1, 2]}, "name: found 3, expected a text"),
        ({"name": "a", "size": [1]}, "size: found 1 entries, expected 2"),
        ({"name": "a", "size": [1, 2.5]}, "expected a whole number"),
        ({"name": "a", "size": [1, True]}, "expected a whole number"),
        ({"name": "a", "size": [1, 2], "shape": {"kind": "star"}}, "'star', expected one of 'round', 'square'"),
        ({"name": "a", "size": [1, 2], "points": 5}, "expected a list"),
    ],
)
def test_what_does_not_fit_is_said(data: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        from_plain(Drawing, data)


def test_whole_numbers_are_taken_for_floats() -> None:
    assert from_plain(Round, {"radius_px": 2}).radius_px == 2.0
