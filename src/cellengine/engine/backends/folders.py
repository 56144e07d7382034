"""Where this machine's own findings are kept: a folder that may be deleted at any time."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache folder for cellengine; the environment variable CELLENGINE_CACHE overrides it. Not created."""
    if chosen := os.environ.get("CELLENGINE_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "cellengine" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cellengine"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cellengine"
