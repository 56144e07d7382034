"""The weights a run was told to start from, remembered in its folder: until the first checkpoint nothing else knows."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cellengine.errors import InputError, UsageError
from cellengine.io.sink import writing

BEGINNING = "beginning.json"


def settle_start(folder: Path, init: Path | None, *, resume: bool) -> Path | None:
    """The weights from which a run in `folder` starts; None for fresh ones, or when a checkpoint holds its own.

    A run that begins is remembered to start from `init`; one that goes on before its first checkpoint starts from what
    was remembered. Raises as `remember_start` and `recall_start` do.
    """
    if (folder / "last.pt").exists():
        return None
    if resume:
        return recall_start(folder)
    remember_start(folder, init)
    return init


def remember_start(folder: Path, init: Path | None) -> None:
    """Write down which weights the runs in `folder` start from, in place of what was there.

    Raises UsageError when `init` does not exist, ResourceError when the folder cannot be written.
    """
    if int(os.environ.get("RANK", "0")):
        return  # under torchrun the first process writes
    path = folder / BEGINNING
    with writing(path):
        if init is None:
            path.unlink(missing_ok=True)
            return
        if not init.is_file():
            raise UsageError(f"--init {init}: there is no such file, and no bundled model of this name.")
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps({"init": str(init.absolute()), **_fingerprint(init)}), encoding="utf-8")
        partial.replace(path)


def recall_start(folder: Path) -> Path | None:
    """The weights that `remember_start` wrote down; None when there are none.

    Raises UsageError when they are gone or have changed since, InputError when the note cannot be read.
    """
    note = folder / BEGINNING
    if not note.exists():
        return None
    try:
        kept = json.loads(note.read_text(encoding="utf-8"))
        init, fingerprint = Path(kept.pop("init")), kept
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{note}: cannot be read ({error}); begin again, with --init and without --resume.") from error
    if not init.is_file() or _fingerprint(init) != fingerprint:
        what = "has changed since" if init.is_file() else "is gone"
        raise UsageError(
            f"{folder} was begun with --init {init}, which {what}: bring it back, or begin again in another -o."
        )
    return init


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
