"""Values of options that several commands take."""

from __future__ import annotations

import re

from cellengine.errors import UsageError


def parse_tile(option: str, text: str) -> tuple[int, ...]:
    """Sides in px: N, or one an axis. Raises UsageError."""
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"{option} {text!r}: expected whole numbers of px, e.g. 512 or 512,512.")
    return tuple(int(part) for part in parts)


def parse_bytes(option: str, text: str) -> int:
    """A size with its unit, decimal (GB) or binary (GiB), in bytes. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b", text.strip().lower())
    if found is None:
        raise UsageError(f"{option} {text!r}: expected a size with its unit, e.g. 2GB or 500MB.")
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix or " "))
