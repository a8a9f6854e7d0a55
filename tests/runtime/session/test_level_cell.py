"""LevelCell: a level that can only be lowered, also during a run."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from chain import counting_chain, small_chain, small_inputs
from nested_sparse.errors import LevelError
from nested_sparse.runtime.session.level_cell import LevelCell
from nested_sparse.runtime.session.session import Session


def test_level_cell_can_only_be_lowered() -> None:
    """Raising is refused, and so is less than 0."""
    cell = LevelCell(2)
    cell.lower(1)
    cell.lower(1)
    for level in (2, -1):
        with pytest.raises(LevelError, match="only be lowered"):
            cell.lower(level)
    assert cell.value == 1
    with pytest.raises(LevelError):
        LevelCell(-1)


def test_run_at_a_level_cell(tmp_path: Path) -> None:
    """The cell's level is the run's."""
    cell = LevelCell(2)
    with Session(small_chain(tmp_path / "model.safetensors").path, threads=1) as session:
        np.testing.assert_array_equal(
            session.run(small_inputs(), cell)["output"], session.run(small_inputs(), 2)["output"]
        )
        cell.lower(0)
        np.testing.assert_array_equal(
            session.run(small_inputs(), cell)["output"], session.run(small_inputs(), 0)["output"]
        )


def test_level_cell_lowered_in_flight_is_obeyed_by_the_layers_that_follow(tmp_path: Path) -> None:
    """Some layers at the old level, the rest at the new one. Tried until the lowering falls into the run.

    How long a run takes is measured anew by each that the lowering came too late or too early for.
    """
    layers, width = 300, 32
    path = counting_chain(tmp_path / "count.safetensors", layers, width).path
    x = {"input": np.zeros((2048, width), np.float32)}
    with Session(path, threads=1) as session:
        assert session.run(x, 1)["output"][0, 0] == layers
        assert session.run(x, 0)["output"][0, 0] == 0
        end_s, delay_s, count = time.monotonic() + 120, 0.0, 0.0
        while not 0 < count < layers and time.monotonic() < end_s:
            cell = LevelCell(1)
            timer = threading.Timer(delay_s, cell.lower, (0,))
            timer.start()
            started_s = time.perf_counter()
            y = session.run(x, cell)["output"]
            delay_s = (time.perf_counter() - started_s) * float(np.random.default_rng().uniform(0.1, 0.9))
            timer.join()
            assert cell.value == 0
            assert np.all(y == y[0, 0])
            count = y[0, 0]
        assert 0 < count < layers
