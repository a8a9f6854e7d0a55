"""Rows that need no server: rescues, from hand-made ones, and the offline oracle."""

from __future__ import annotations

from dataclasses import dataclass, field

from nested_sparse.serving.bench.row import Reach
from nested_sparse.serving.load_test.device_figures import rescue_summary
from nested_sparse.serving.load_test.oracle_figure import oracle_figure


@dataclass
class Counted:
    """As measure_rescue() gives, with the counts as they are."""

    condition: str
    level: int
    rescued: int
    near: int
    accuracy_cost: float | None = 0.01
    needless: int = 0
    pairs: list[None] = field(default_factory=lambda: [None] * 50)

    @property
    def near_misses(self) -> list[None]:
        return [None] * self.near


def test_rescues_of_all_levels_and_conditions_count_together():
    """8 of 10 and 9 of 10 near misses: 85 %, the dearest level's cost named by condition."""
    row = rescue_summary("rescued", Reach(">=", 80.0), [Counted("idle", 3, 8, 10, 0.03), Counted("busy", 3, 9, 10)])
    assert row.measured == 85.0
    assert row.met is True
    assert (
        row.note == "idle: 8 of 10 for 3.0 points of accuracy at most; busy: 9 of 10 for 1.0 points of accuracy at most"
    )
    assert [part["near_misses"] for part in row.details["by_level"]] == [10, 10]


def test_without_near_misses_there_is_no_share():
    row = rescue_summary("rescued", Reach(">=", 80.0), [Counted("idle", 3, 0, 0, None)])
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
