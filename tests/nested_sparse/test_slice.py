"""Slice: the prefix of a checkpoint, and the outputs that it may not have."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError, LevelError
from nested_sparse.slice import slice_checkpoint


def data_of(path: Path) -> bytes:
    """The bytes after the header."""
    raw = path.read_bytes()
    return raw[8 + struct.unpack("<Q", raw[:8])[0] :]


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_slice_is_the_prefix_of_the_file(path: Path, levels: int) -> None:
    """Same graph and segments, fewer levels; a slice of all of them is the same file."""
    cut = path.with_name("cut.safetensors")
    slice_checkpoint(path, levels, cut)
    with Checkpoint.open(path) as whole, Checkpoint.open(cut) as part:
        assert part.levels == whole.levels[:levels]
        assert part.graph() == whole.graph()
        for level in range(levels):
            assert np.array_equal(part.segment(level), whole.segment(level))
    data, cut_data = data_of(path), data_of(cut)
    assert data[: len(cut_data)] == cut_data
    assert (cut.read_bytes() == path.read_bytes()) == (levels == 3)


def test_a_slice_needs_levels_the_file_has(path: Path) -> None:
    """0 and too many are named."""
    for levels in (0, 4):
        with pytest.raises(LevelError, match="has 3 levels"):
            slice_checkpoint(path, levels, path.with_name("cut.safetensors"))


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_never_cut_onto_itself(path: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    """It stays as it is, whatever its name: the same, a relative one, through a link of either kind."""
    before = path.read_bytes()
    monkeypatch.chdir(path.parent)
    soft, hard, folder = (path.with_name(name) for name in ("soft", "hard", "folder"))
    soft.symlink_to(path)
    hard.hardlink_to(path)
    folder.symlink_to(path.parent)
    for other in (path, Path(path.name), soft, hard, folder / path.name):
        for source, destination in ((path, other), (other, path)):
            with pytest.raises(CheckpointError, match=r"is the file to cut .* name another file"):
                slice_checkpoint(source, 1, destination, force=force)
    assert path.read_bytes() == before
    assert soft.is_symlink()
