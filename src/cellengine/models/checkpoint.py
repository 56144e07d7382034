"""Checkpoints: written atomically, read with weights_only, so that nothing in a file is ever executed."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from cellengine.errors import ModelError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, texts, lists or dicts of them); the old file stays until the new is whole."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU. Raises ModelError for a file that is damaged or holds anything but data."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"The checkpoint {path} does not exist.") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: not a checkpoint of plain tensors, nothing was executed ({reason}).") from error
    if not isinstance(state, dict) or "model" not in state:
        raise ModelError(f"{path}: found no entry 'model'; expected a checkpoint that cellengine train wrote.")
    return state
