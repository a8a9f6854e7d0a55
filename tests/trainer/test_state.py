"""State: round trip, damaged files, and random generators."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from nested_sparse.errors import TrainingError
from nested_sparse.trainer.state import MAGIC, load_state, random_state, restore_random_state, save_state


def test_round_trip_leaves_no_other_file(tmp_path: Path) -> None:
    """A saved state is loaded; a second save replaces the first; a leftover temporary file does no harm."""
    path = tmp_path / "state"
    (tmp_path / "state.tmp").write_bytes(b"left by a killed run")
    save_state(path, {"epoch": 1, "weights": torch.arange(4.0)})
    save_state(path, {"epoch": 2, "weights": torch.arange(5.0)})
    state = load_state(path)
    assert state["epoch"] == 2
    assert torch.equal(state["weights"], torch.arange(5.0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """A foreign, empty or truncated file, or one with a flipped bit, gives a TrainingError with the next step."""
    path = tmp_path / "state"
    save_state(path, {"weights": torch.arange(100.0)})
    content = path.read_bytes()
    damaged = [b"", b"PK\x03\x04", *(content[:size] for size in range(0, len(content), 97))]
    for position in range(0, len(content), 131):
        damaged.append(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
    for wrong in damaged:
        path.write_bytes(wrong)
        with pytest.raises(TrainingError, match="choose another state_path") as caught:
            load_state(path)
        assert ("delete it" in str(caught.value)) == wrong.startswith(MAGIC)  # not a file of the user's


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    """torch, numpy and Python draw the same numbers again after a round trip through the file."""
    np.random.standard_normal()
    random.gauss(0, 1)
    save_state(tmp_path / "state", random_state())

    def draw() -> list[float]:
        return [
            torch.rand(1).item(),
            np.random.standard_normal(),
            np.random.rand(),
            random.gauss(0, 1),
            random.random(),
        ]

    first = draw()
    restore_random_state(load_state(tmp_path / "state"))
    assert draw() == first
