"""Checkpoints: written atomically, read with weights_only, so that nothing in a file is ever executed."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from cellengine.errors import ModelError
from cellengine.io.sink import writing


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, texts, lists or dicts of them); the old file stays until the new is whole.

    Raises ResourceError when the disk is full or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path), partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU. Raises ModelError for a file that is damaged or holds anything but data."""
    state = _load(path)
    if not isinstance(state, dict) or "model" not in state:
        raise ModelError(f"{path}: found no entry 'model'; expected a checkpoint that cellengine train wrote.")
    return state


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint by name: of `cellengine train`, or a plain state dictionary as torchvision's.

    Raises ModelError as `load_checkpoint` does, and for a file without weights.
    """
    state = _load(path)
    weights = state.get("model", state) if isinstance(state, dict) else {}
    if not isinstance(weights, dict) or not weights or not all(torch.is_tensor(v) for v in weights.values()):
        raise ModelError(f"{path}: found no weights; expected a checkpoint or a dictionary of tensors by name.")
    return {str(name): value for name, value in weights.items()}


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"The checkpoint {path} does not exist.") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: not a checkpoint of plain tensors, nothing was executed ({reason}).") from error
