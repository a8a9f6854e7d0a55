"""VirtualSession: with VirtualGuard, runs that take the profile's time and may be lowered."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.simulation import RateContention, VirtualClock, VirtualGuard, VirtualSession

PROFILE = LatencyProfile((1, 4), [[2.0, 4.0], [6.0, 12.0], [10.0, 20.0]])
ACCURACY = (0.7, 0.8, 0.9)


def all_routes() -> NDArray[np.float64]:
    """From any level to any lower one at operators 1 and 3 of four, better the later."""
    table = np.full((3, 3, 4), np.nan)
    for n in (1, 3):
        for start in range(3):
            for end in range(start):
                table[start, end, n] = ACCURACY[end] + 0.02 * n
    return table


@dataclass
class Table:
    """Falls as told, and remembers what it was asked."""

    falls: dict[int, int]
    asked: list[tuple[int, int, float]] = field(default_factory=list)
    layers: tuple[str, ...] = ("a", "b", "c", "d")
    accuracy: NDArray[np.float64] = field(default_factory=all_routes)
    remaining_share: NDArray[np.float64] = field(
        default_factory=lambda: np.array([[0.9, 0.7, 0.4, 0.2], [0.9, 0.6, 0.5, 0.2], [1.0, 0.8, 0.5, 0.1]])
    )

    def decide(
        self,
        level: int,
        n: int,
        elapsed_ms: float,
        level_ms: object,
        budget_ms: float,
        slowdown: float,
        least_accuracy: float = 0.0,
        lowest_level: int = 0,
    ) -> int:
        self.asked.append((level, n, elapsed_ms))
        return self.falls.get(n, level)


def build(noise: tuple[float, ...] = (), rate: float = 1.0) -> tuple[VirtualClock, VirtualSession]:
    clock = VirtualClock(0.0)
    return clock, VirtualSession(clock, PROFILE, ACCURACY, RateContention("even", [0.0], [rate]), noise)


def test_a_request_takes_its_own_time() -> None:
    """Profile × the noise of its number × contention; beyond the noise's end, 1."""
    clock, session = build((1.0, 1.5), rate=0.5)
    for number, level, took_ms in ((1, 2, 30.0), (0, 1, 12.0), (7, 0, 4.0), (1, 0, 6.0)):
        begin_s = clock()
        outputs = session.run(session.numbered(number), level)
        assert clock() - begin_s == pytest.approx(took_ms / 1e3)
        assert outputs["y"][0].tolist() == [number + level, level, level]
    assert [(run.level, run.requests, run.score) for run in session.runs] == [
        (2, (1,), 0.9),
        (1, (0,), 0.8),
        (0, (7,), 0.7),
        (0, (1,), 0.7),
    ]


def test_a_batch_takes_the_batch_s_time() -> None:
    """Of the profile, at the mean of its members' noise."""
    clock, session = build((1.0, 2.0))
    rows = np.concatenate([session.numbered(number)["x"] for number in (0, 1, 2, 3)])
    session.run({"x": rows}, 1)
    assert clock() == pytest.approx(12.0 * 1.25 / 1e3)
    assert session.runs[0].requests == (0, 1, 2, 3)


def test_a_guard_that_does_not_fall_changes_nothing() -> None:
    """The same time as without, though it is passed in pieces; it is asked where a fall is possible, with the time."""
    table = Table({})
    clock, session = build((2.0,), rate=0.5)
    guard = VirtualGuard(table)
    guard.arm(2, (2.0, 6.0, 10.0), 100.0, 1.0)
    session.run(session.numbered(0), 2, guard)
    assert clock() == pytest.approx(0.040)
    assert (guard.level, guard.lowered_at, guard.lowered_from, guard.expected_accuracy) == (2, None, None, None)
    assert guard.nominal_ms == pytest.approx(10.0)
    assert np.array(table.asked) == pytest.approx(np.array([[2, 1, 8.0], [2, 3, 36.0]]))
    assert session.runs[0].score == 0.9


def test_a_run_falls_on_the_way() -> None:
    """20 % of 10 ms at level 2, the last 60 % of 6 ms at level 1; it scores as the table says."""
    clock, session = build((2.0,))
    guard = VirtualGuard(Table({1: 1}))
    guard.arm(2, (2.0, 6.0, 10.0), 100.0, 1.0)
    outputs = session.run(session.numbered(0), 2, guard)
    assert clock() == pytest.approx(2 * (2.0 + 3.6) / 1e3)
    assert guard.nominal_ms == pytest.approx(5.6)
    assert (guard.level, guard.lowered_at, guard.lowered_from) == (1, "b", 2)
    assert guard.expected_accuracy == pytest.approx(0.82)
    assert outputs["y"][0, 1] == 1
    run = session.runs[0]
    assert (run.level, run.end_level, run.score) == (2, 1, guard.expected_accuracy)


def test_it_may_fall_twice_and_is_armed_for_one_run() -> None:
    """Then what was there before the last fall counts; the next run is a new one."""
    clock, session = build()
    guard = VirtualGuard(Table({1: 1, 3: 0}))
    guard.arm(2, (2.0, 6.0, 10.0), 100.0, 1.0)
    session.run(session.numbered(0), 2, guard)
    assert clock() == pytest.approx((10 * 0.2 + 6 * 0.4 + 2 * 0.2) / 1e3)
    assert (guard.level, guard.lowered_at, guard.lowered_from) == (0, "d", 1)
    guard.arm(1, (2.0, 6.0, 10.0), 100.0, 1.0)
    assert (guard.level, guard.lowered_at, guard.nominal_ms) == (1, None, 0.0)


def test_a_forced_run_falls_there_and_nowhere_else() -> None:
    """A forced run is lowered there against the rule; the next run follows the rule again."""
    _, session = build()
    table = Table({1: 0})
    guard = VirtualGuard(table)
    guard.force(2, 1, "d")
    session.run(session.numbered(0), 2, guard)
    assert (guard.level, guard.lowered_at, table.asked) == (1, "d", [])
    guard.arm(2, (2.0, 6.0, 10.0), 100.0, 1.0)
    session.run(session.numbered(0), 2, guard)
    assert (guard.level, guard.lowered_at) == (0, "b")


def test_levels_that_state_nothing() -> None:
    """No metric, and a score that is not a number."""
    session = VirtualSession(VirtualClock(), PROFILE, (None, 0.8, 0.9))
    assert [dict(level.metrics) for level in session.levels] == [{}, {"accuracy": 0.8}, {"accuracy": 0.9}]
    session.run(session.numbered(0), 0)
    assert np.isnan(session.runs[0].score)
