"""What may happen to a file between two runs."""

from __future__ import annotations

import os
from pathlib import Path


def flip(path: Path, share: float) -> None:
    """Turn over one bit, `share` of the way through the file."""
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    """Leave the first `share` of the file."""
    os.truncate(path, int(share * path.stat().st_size))
