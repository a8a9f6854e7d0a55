"""VirtualSession: with VirtualGuard, runs that take the profile's time and may be lowered."""

from __future__ import annotations

import numpy as np
import pytest

from nested_sparse.errors import InputError
from nested_sparse.kernels.guarded_run import arrive_at
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.rerouting import RouteGuard, RouteTable
from nested_sparse.runtime.session import Lowering
from nested_sparse.runtime.simulation import RateContention, VirtualClock, VirtualGuard, VirtualSession

PROFILE = LatencyProfile((1, 4), [[2.0, 4.0], [6.0, 12.0], [10.0, 20.0]])
LEVEL_MS, ACCURACY = (2.0, 6.0, 10.0), (0.7, 0.8, 0.9)


def table(*places: int) -> RouteTable:
    """Four operators; the level may fall at `places`, and scores better the later."""
    accuracy = np.full((3, 3, 4), np.nan)
    for n in places:
        for start in range(3):
            accuracy[start, :start, n] = np.array(ACCURACY[:start]) + 0.02 * n
    share = np.array([[0.9, 0.7, 0.4, 0.2], [0.9, 0.6, 0.5, 0.2], [1.0, 0.8, 0.5, 0.1]])
    return RouteTable(("a", "b", "c", "d"), share, accuracy)


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
    """The same time as without, though it is passed in pieces."""
    clock, session = build((2.0,), rate=0.5)
    guard = VirtualGuard(table(1, 3))
    guard.arm(2, LEVEL_MS, 100.0, 1.0)
    session.run(session.numbered(0), 2, guard)
    assert clock() == pytest.approx(0.040)
    assert (guard.level, guard.lowering) == (2, None)
    assert guard.nominal_ms == pytest.approx(10.0)
    assert session.runs[0].score == 0.9


def test_a_run_falls_on_the_way() -> None:
    """20 % of 10 ms at level 2, the last 60 % of 6 ms at level 1; it scores as the table says."""
    clock, session = build((2.0,))
    guard = VirtualGuard(table(1))
    guard.arm(2, LEVEL_MS, 15.0, 2.0)
    outputs = session.run(session.numbered(0), 2, guard)
    assert clock() == pytest.approx(2 * (2.0 + 3.6) / 1e3)
    assert guard.nominal_ms == pytest.approx(5.6)
    assert (guard.level, guard.lowering) == (1, Lowering(2, "b", 2, ACCURACY[1] + 0.02))
    assert outputs["y"][0, 1] == 1
    run = session.runs[0]
    assert (run.level, run.end_level, run.score) == (2, 1, ACCURACY[1] + 0.02)


def test_the_level_may_fall_twice_and_a_guard_is_armed_for_one_run() -> None:
    """Then what was there before the last fall counts; the next run is a new one."""
    clock = VirtualClock(0.0)
    slower = RateContention("slower", [0.0, 0.003], [1.0, 0.25])
    session = VirtualSession(clock, PROFILE, ACCURACY, slower)
    guard = VirtualGuard(table(1, 3))
    guard.arm(2, LEVEL_MS, 7.5, 1.0, least_accuracy=0.75)
    session.run(session.numbered(0), 2, guard)
    assert guard.lowering == Lowering(2, "d", 1, ACCURACY[0] + 0.06)
    assert clock() == pytest.approx((10 * 0.2 + 1.0 + 4 * (6 * 0.4 - 1.0 + 2 * 0.2)) / 1e3)
    guard.arm(1, LEVEL_MS, 100.0, 1.0)
    assert (guard.level, guard.lowering, guard.nominal_ms) == (1, None, 6.0)


def test_the_level_falls_where_the_operators_would_lower_it() -> None:
    """A neighbour comes 5 ms after the begin: with each budget the same level at each operator as in the library."""
    operators, falls = 10, set()
    share = np.tile(1 - np.arange(operators) / operators, (3, 1))
    accuracy = np.full((3, 3, operators), np.nan)
    accuracy[1, 0], accuracy[2, :2] = 0.7, [[0.7], [0.8]]
    routes = RouteTable(tuple(f"layer{n}" for n in range(operators)), share, accuracy)
    for budget_ms in np.linspace(3.03, 16.07, 60):
        clock = VirtualClock(0.0)
        session = VirtualSession(clock, PROFILE, ACCURACY, RateContention("neighbour", [0.0, 0.005], [1.0, 0.5]))
        guard, real = Timed(routes, clock), RouteGuard(routes)
        for each in (guard, real):
            each.arm(2, LEVEL_MS, budget_ms, 1.0)
        session.run(session.numbered(0), 2, guard)
        assert [arrive_at(real._run, start_ns) for start_ns in guard.starts_ns] == guard.levels
        assert guard.lowering == real.lowering
        falls.add(guard.lowering)
    assert None in falls
    assert len(falls) > 10


class Timed(VirtualGuard):
    """Notes when each operator starts, and its level."""

    def __init__(self, routes: RouteTable, time_s: VirtualClock) -> None:
        super().__init__(routes)
        self._time_s = time_s
        self.starts_ns: list[int] = []
        self.levels: list[int] = []

    def arrive(self, n: int) -> None:
        self.starts_ns.append(round(self._time_s() * 1e9))
        super().arrive(n)
        self.levels.append(self.level)


def test_a_run_under_way_is_to_end_sooner() -> None:
    """Told during the run, the guard lowers it as if it had been armed so; more time than it had changes nothing."""
    ends = []
    for budget_ms, left_ms in ((100.0, 3.0), (100.0, 100.0)):
        clock, session = build()
        guard = VirtualGuard(table(1))
        guard.arm(2, LEVEL_MS, budget_ms, 1.0)
        clock.at(0.001, lambda guard=guard, left_ms=left_ms: guard.tighten(left_ms))
        session.run(session.numbered(0), 2, guard)
        ends.append(guard.level)
    assert ends == [0, 2]


def test_guards_that_were_not_armed_for_the_run_are_refused() -> None:
    """Not armed at all, for another level, for the run before; and a guard of real time."""
    _, session = build()
    guard = VirtualGuard(table(1))
    with pytest.raises(InputError, match="not armed for level 2 of 3"):
        session.run(session.numbered(0), 2, guard)
    guard.arm(2, LEVEL_MS, 100.0, 1.0)
    with pytest.raises(InputError, match="not armed for level 1 of 3"):
        session.run(session.numbered(0), 1, guard)
    with pytest.raises(InputError, match="needs a VirtualGuard"):
        session.run(session.numbered(0), 1, RouteGuard(table(1)))
    assert session.runs == []
    session.run(session.numbered(0), 2, guard)
    with pytest.raises(InputError, match="not armed for level 2 of 3"):
        session.run(session.numbered(0), 2, guard)


def test_levels_that_state_nothing() -> None:
    """No metric, and a score that is not a number."""
    session = VirtualSession(VirtualClock(), PROFILE, (None, 0.8, 0.9))
    assert [dict(level.metrics) for level in session.levels] == [{}, {"accuracy": 0.8}, {"accuracy": 0.9}]
    session.run(session.numbered(0), 0)
    assert np.isnan(session.runs[0].score)
