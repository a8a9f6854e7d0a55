"""Device figures: rows without a server, for rescues made by hand and for the offline oracle."""

from __future__ import annotations

import numpy as np
import pytest

from nested_sparse.errors import InputError
from nested_sparse.runtime.profiling.resident import Resident, State
from nested_sparse.serving.bench.reach import Reach
from nested_sparse.serving.bench.serving import device_figures
from nested_sparse.serving.bench.serving.device_figures import rescue_summary, resident_figure
from nested_sparse.serving.bench.serving.oracle_figure import ServedLevels, oracle_figures
from nested_sparse.serving.bench.serving.rescue import Pair, Rescue


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


def test_the_oracle_row_is_the_worst_undisturbed_trace_of_the_simulator():
    """No share is beyond the oracle's; beside contention it is said, and beside a quota something is asked."""
    row, contended, quota, _ = oracle_figures(ServedLevels(1, [20.0, 30.0], [0.6, 0.9], 100.0), requests=60, seed=0)
    shares = row.details["by_trace"]
    assert set(shares) >= {"poisson", "ramp"}
    assert row.measured == min(shares.values())
    assert row.met == (row.measured >= 0.98)
    cells = contended.details["by_cell"]
    assert len(cells) == 3 * len(shares)
    assert contended.met is None
    assert quota.measured == pytest.approx(np.mean([share for name, share in cells.items() if name.endswith("quota")]))
    assert quota.met == (quota.measured >= 0.95)
    assert all(0 < share <= 1 + 1e-9 for share in (*shares.values(), *cells.values()))


def test_the_oracle_misses_least_of_all():
    """At its own accuracy, beside fixed levels; elastic cannot miss less, as its answers are not more accurate."""
    levels = ServedLevels(1, [4.0, 7.0, 14.0], [0.6, 0.8, 0.9], 45.0)
    *_, row = oracle_figures(levels, requests=300, seed=0)
    assert row.met is None
    assert 0.0 <= row.measured < row.details["elastic"] < 1.0
    assert f"elastic {row.details['elastic']:.3f}" in row.note


def test_where_no_fixed_level_misses_nothing_is_compared():
    *_, row = oracle_figures(ServedLevels(1, [0.01, 0.02], [0.6, 0.9], 1000.0), requests=60, seed=0)
    assert row.unavailable


def test_the_resident_row_is_the_runtimes_figure(monkeypatch, tmp_path):
    """The ratio it measures, and all that it was made of; a model that cannot be measured says why."""
    states = [State((100_000, each), 1_000_000 + grown) for each, grown in ((0, 0), (0, 6), (9_000, 6), (0, 6))]
    found = Resident(16, 400_000, 600_000, 1_100_000, 1.1, *states)
    monkeypatch.setattr(device_figures, "measure_resident", lambda path, batch: found)
    row = resident_figure(tmp_path, 16)
    assert (row.measured, row.met) == (pytest.approx(1.1), True)
    assert row.details["shrunk_bytes"] == 1_100_000
    assert "0.38 for level 0" in row.note

    def refuse(path, batch):
        raise InputError("no RssAnon")

    monkeypatch.setattr(device_figures, "measure_resident", refuse)
    assert resident_figure(tmp_path, 16).unavailable == "no RssAnon"
