"""Rows that need no server: rescues, from hand-made ones, and the offline oracle."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace

from nested_sparse.serving.bench.row import Reach
from nested_sparse.serving.load_test.device_figures import rescue_summary, resident_figure
from nested_sparse.serving.load_test.oracle_figure import oracle_figure
from nested_sparse.serving.load_test.rescue import Pair, Rescue


def rescue(condition: str, saved: int, near: int, cost: float) -> Rescue:
    """`near` runs late by less than half an inference, of which `saved` were in time when lowered; one early run."""
    late = [Pair(10.0, 11.0, 9.0 if place < saved else 10.5, True, 0.9 - cost) for place in range(near)]
    return Rescue(condition, 3, 20.0, 0.9, [*late, Pair(10.0, 9.0, 9.0, False, None)])


def test_rescues_of_all_levels_and_conditions_count_together():
    """8 of 10 and 9 of 10 near misses: 85 %, the dearest level's cost named by condition."""
    row = rescue_summary("rescued", Reach(">=", 80.0), [rescue("idle", 8, 10, 0.03), rescue("busy", 9, 10, 0.01)])
    assert row.measured == 85.0
    assert row.met is True
    assert row.note.split("; ") == [
        "idle: 8 of 10 for 3.0 points of accuracy at most",
        "busy: 9 of 10 for 1.0 points of accuracy at most",
    ]
    assert [part["near_misses"] for part in row.details["by_level"]] == [10, 10]


def test_without_near_misses_there_is_no_share():
    row = rescue_summary("rescued", Reach(">=", 80.0), [rescue("idle", 0, 0, 0.0)])
    assert row.measured is None
    assert row.unavailable == "no run missed by less than half an inference"


def test_the_oracle_row_is_the_worst_trace_of_the_simulator():
    """No share is beyond the oracle's, and the row is the least of the traces' means."""
    row = oracle_figure([20.0, 30.0], [0.6, 0.9], 100.0, None, seed=0, requests=60)
    shares = row.details["by_trace"]
    assert set(shares) >= {"poisson", "ramp"}
    assert all(0 < share <= 1 + 1e-9 for by_contention in shares.values() for share in by_contention.values())
    means = [sum(shares[trace].values()) / len(shares[trace]) for trace in shares]
    assert row.measured == min(means)
    assert row.met == (min(means) >= 0.98)


def test_the_resident_row_is_the_runtimes_figure(monkeypatch, tmp_path):
    """The ratio it measures, and all that it was made of; without such a measurement the row says so."""
    monkeypatch.setitem(sys.modules, "nested_sparse.runtime.resident", None)
    assert "does not measure" in resident_figure(tmp_path).unavailable

    @dataclass
    class Resident:
        ratio: float
        at_level_0_bytes: int

    module = SimpleNamespace(measure_resident=lambda path: Resident(1.1, 1000))
    monkeypatch.setitem(sys.modules, "nested_sparse.runtime.resident", module)
    row = resident_figure(tmp_path)
    assert (row.measured, row.met) == (1.1, True)
    assert row.details == {"ratio": 1.1, "at_level_0_bytes": 1000}
