"""Frozen dataclasses to and from plain data (TOML, JSON). An unknown key is an error that lists the known ones."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


class RecordError(ValueError):
    """Plain data does not fit the record; the message names the place, what was found and what is known."""


def from_plain(record: type[T], data: Any, where: str = "") -> T:
    """Build the dataclass `record` from a mapping as TOML or JSON gives it.

    Nested dataclasses, tuples (from lists), `X | None`, `Literal`, `dict[str, X]` and unions of dataclasses are
    followed; a union is told apart by the field `kind`, a `Literal` of one value in each member. Integers are
    taken where floats are expected, nothing else is converted. Raises RecordError, with `where` as the place.
    """
    if not isinstance(data, Mapping):
        raise RecordError(f"{where or record.__name__}: expected a table of settings, found {data!r}.")
    hints = typing.get_type_hints(record)
    fields = {f.name: f for f in dataclasses.fields(record)}  # type: ignore[arg-type]
    unknown = [key for key in data if key not in fields]
    if unknown:
        place = f"{where}." if where else ""
        raise RecordError(f"Unknown setting {place}{unknown[0]}; known here: {', '.join(sorted(fields))}.")
    values = {}
    for name, field in fields.items():
        place = f"{where}.{name}" if where else name
        if name in data:
            values[name] = _convert(hints[name], data[name], place)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RecordError(f"The setting {place} is missing.")
    try:
        return record(**values)
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"{where or record.__name__}: {error}") from error


def to_plain(value: Any) -> Any:
    """The inverse of `from_plain`: dataclasses become dictionaries, tuples lists; fields that are None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: to_plain(item) for name, item in items if item is not None}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise RecordError(f"{where}: found {value!r}, expected one of {', '.join(map(repr, arguments))}.")
        return value
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RecordError(f"{where}: expected a table, found {value!r}.")
        return {str(key): _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_plain(kind, value, where)
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RecordError(f"{where}: found {value!r}, expected {_name(kind)}.")
    return value


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise RecordError(f"{where}: found {value!r}, expected a list.")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        kinds = (arguments[0],) * len(value)
    elif len(arguments) == len(value):
        kinds = arguments
    else:
        raise RecordError(f"{where}: found {len(value)} entries, expected {len(arguments)}.")
    return tuple(_convert(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _convert_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in members:
        return None
    real = tuple(m for m in members if m is not type(None))
    records: dict[str, Any] = {_tag(m): m for m in real if dataclasses.is_dataclass(m)}
    if len(records) > 1:
        tag = value.get("kind") if isinstance(value, Mapping) else None
        if tag not in records:
            raise RecordError(f"{where}.kind: found {tag!r}, expected one of {', '.join(map(repr, records))}.")
        return from_plain(records[tag], value, where)
    problems = {}
    for member in real:
        try:
            return _convert(member, value, where)
        except RecordError as error:
            problems[typing.get_origin(member) is tuple] = str(error)
    raise RecordError(problems.get(isinstance(value, list), next(iter(problems.values()))))


def _tag(record: Any) -> str:
    hint = typing.get_type_hints(record).get("kind")
    return str(typing.get_args(hint)[0]) if typing.get_origin(hint) is Literal else record.__name__


def _name(kind: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(kind, str(kind))
