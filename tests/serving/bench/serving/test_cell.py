"""Cells: equal arrivals for all, divided into turns in a rotated order."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nested_sparse.errors import BenchError
from nested_sparse.serving.bench.serving.cell import TRACES, Cell, Load, chosen_traces, rotated, segments

LOAD = Load(rate_per_s=100.0, segment_s=6.0, rounds=4)


@pytest.mark.parametrize("trace", TRACES)
def test_segments_are_one_trace_cut_up(trace):
    """Each begins at 0 and keeps to its length, in order, with the rate of the load on average and known phases."""
    turns = segments(Cell(trace, "cpu"), TRACES[trace], LOAD, 7, seed=1)
    assert len(turns) == LOAD.rounds
    for turn in turns:
        times = [arrival.at_s for arrival in turn]
        assert times == sorted(times)
        assert all(0 <= at_s < LOAD.segment_s for at_s in times)
        assert all((arrival.phase == "beside") == (2.0 <= arrival.at_s < 4.0) for arrival in turn)
    count = sum(map(len, turns))
    cv2 = float(trace.partition("-")[2] or 1.0)
    assert count == pytest.approx(2400, abs=5 * np.sqrt(2400 * cv2))
    assert {arrival.item for turn in turns for arrival in turn} == set(range(7))


def test_a_cells_arrivals_depend_on_the_seed_and_its_name_alone():
    cell = Cell("gamma-4", "cpu")
    once = segments(cell, TRACES["gamma-4"], LOAD, 7, seed=1)
    assert segments(cell, TRACES["gamma-4"], LOAD, 7, seed=1) == once
    assert segments(cell, TRACES["gamma-4"], LOAD, 7, seed=2) != once
    assert segments(Cell("gamma-4", "none"), TRACES["gamma-4"], LOAD, 7, seed=1) != once


def test_a_ramp_rises_and_falls():
    """Half of the load lies in the middle third, as under a triangle (5/9 of it without a floor)."""
    (turn,) = segments(Cell("ramp", "none"), TRACES["ramp"], Load(500.0, 9.0, 1), 1, seed=0)
    middle = np.mean([3.0 <= arrival.at_s < 6.0 for arrival in turn])
    assert 0.48 < middle < 0.62


def test_every_server_is_first_second_and_third_equally_often():
    names = ["a", "b", "c"]
    orders = [rotated(names, turn) for turn in range(6)]
    for place in range(3):
        assert Counter(order[place] for order in orders) == dict.fromkeys(names, 2)
    assert all(sorted(order) == names for order in orders)


def test_traces_are_chosen_by_name(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, arrival_us=np.arange(5000) * 1000)
    assert list(chosen_traces([], None)) == list(TRACES)
    assert list(chosen_traces(["mine", "ramp"], path)) == ["mine", "ramp"]
    turns = segments(Cell("mine", "none"), chosen_traces(["mine"], path)["mine"], LOAD, 3, seed=0)
    assert [len(turn) for turn in turns] == pytest.approx([600] * 4, abs=2)
    with pytest.raises(BenchError, match="no trace 'sawtooth'; there are poisson"):
        chosen_traces(["sawtooth"], None)
