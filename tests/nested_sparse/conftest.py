"""Fixtures: a small checkpoint for the tests of the format."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import write_small_checkpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small good checkpoint."""
    write_small_checkpoint(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"
