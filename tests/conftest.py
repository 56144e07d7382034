"""Shared fixtures: where the real annotated pictures are, when they are there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# machines are shared: how long an example takes says nothing about the code
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

DATA = Path(os.environ.get("CELLENGINE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real annotated pictures; tests that need it skip with a reason when it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"real annotated pictures are not at {DATA} (set CELLENGINE_TEST_DATA)")
    return DATA
