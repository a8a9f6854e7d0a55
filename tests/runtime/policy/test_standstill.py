"""Standstill: the stops of a CPU quota, foreseen for groups of processes that a model of the kernel stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nested_sparse.runtime.policy.standstill import BELIEVED_PERIODS, UNREAD_S, Standstill
from nested_sparse.runtime.resources import QuotaReading


@dataclass
class Group:
    """A group of processes with a quota of `quota_s` each `period_s`, from `phase_s` on, as the kernel keeps it.

    others: cores that the rest of the group uses all the time. stops: periods so far in which the quota was used up.
    beside: cores that other threads of ours use during a run. tells: whether the CPU time of the whole group can be
    read. now_s: the latest moment.
    """

    quota_s: float = 0.010
    period_s: float = 0.020
    phase_s: float = 0.0037
    others: float = 0.0
    beside: float = 0.0
    tells: bool = True
    stops: int = 0
    now_s: float = 0.0
    used_s: dict[int, float] = field(default_factory=dict)

    def run(self, start_s: float, work_s: float) -> float:
        """The end of a run of one thread that begins at `start_s`."""
        now_s, rate = start_s, 1.0 + self.beside
        while True:
            period = int((now_s - self.phase_s) // self.period_s)
            refill_s = self.phase_s + period * self.period_s
            next_s = refill_s + self.period_s
            own_s = self.used_s.get(period, 0.0)
            left_s = self.quota_s - own_s - self.others * (now_s - refill_s)
            room_s = min(max(left_s, 0.0) / (rate + self.others), next_s - now_s)
            if work_s <= room_s:
                self.used_s[period] = own_s + work_s * rate
                self.now_s = now_s + work_s
                return self.now_s
            self.used_s[period] = own_s + room_s * rate
            self.stops += room_s < next_s - now_s
            work_s -= room_s
            now_s = next_s + 1e-9

    def reading(self) -> QuotaReading:
        """As the sensor."""
        used_s = sum(self.used_s.values())
        if self.tells and self.others:
            last = int((self.now_s - self.phase_s) // self.period_s)
            for period in range(last + 1):
                most_s = self.quota_s - self.used_s.get(period, 0.0)
                lasted_s = min(self.now_s - self.phase_s - period * self.period_s, self.period_s)
                used_s += min(self.others * lasted_s, most_s)
        return QuotaReading(self.period_s * 1e3, self.quota_s * 1e3, used_s * 1e3, self.stops)


def learned(group: Group, seed: int = 0, runs: int = 300) -> tuple[Standstill, list[float], list[float]]:
    """A standstill after runs of 1 to 4 ms with short pauses; the errors of its predictions in the second half, in ms,
    and those of predictions that know no quota."""
    rng = np.random.default_rng(seed)
    standstill = Standstill(group.reading)
    now_s, errors, blind = 1.0, [], []
    for i in range(runs):
        now_s += float(rng.exponential(0.001))
        work_s = float(rng.choice([0.001, 0.002, 0.004]))
        group.now_s = now_s
        predicted_ms = standstill.wall_ms(now_s, work_s * 1e3) if standstill.active(now_s) else work_s * 1e3
        ended_s = group.run(now_s, work_s * float(rng.uniform(0.97, 1.03)))
        standstill.learn(now_s, ended_s, work_s * 1e3)
        if i >= runs / 2:
            errors.append(abs(predicted_ms - (ended_s - now_s) * 1e3))
            blind.append(abs(work_s - (ended_s - now_s)) * 1e3)
        now_s = ended_s
    return standstill, errors, blind


@pytest.mark.parametrize(
    ("group", "share"),
    [
        (lambda: Group(), 0.25),
        (lambda: Group(beside=0.4), 0.3),
        (lambda: Group(others=0.6), 0.3),
        (lambda: Group(others=0.6, tells=False), 0.65),
        (lambda: Group(quota_s=0.05, period_s=0.1, phase_s=0.0612), 0.25),
        (lambda: Group(quota_s=0.05, period_s=0.1, others=0.5), 0.3),
    ],
    ids=["alone", "two threads", "beside others", "untold", "100 ms", "100 ms beside others"],
)
def test_predicts_standstills(group: Callable[[], Group], share: float) -> None:
    """The ends of runs are known to a fraction of the error without it, best where the quota is ours alone."""
    standstill, errors, blind = learned(group())
    assert np.mean(errors) < share * np.mean(blind)
    assert np.median(errors) < 0.2
    assert 0.1 < standstill.share < 0.9


def test_a_quota_is_known_before_it_has_stopped_anything() -> None:
    """10 in 20 ms: a run of 25 is to be stopped twice at least. A quota of more than we use changes nothing."""
    standstill = Standstill(lambda: QuotaReading(20.0, 10.0))
    assert standstill.active(3.0)
    assert standstill.share == 0.5
    assert 45.0 <= standstill.wall_ms(3.0, 25.0) <= 55.0
    assert not Standstill(lambda: QuotaReading(20.0, 20.0)).active(3.0)


def test_a_quota_that_comes_and_goes() -> None:
    """It is seen within UNREAD_S, without a run."""
    reading: list[QuotaReading | None] = [None]
    standstill = Standstill(lambda: reading[0])
    assert not standstill.active(1.0)
    reading[0] = QuotaReading(20.0, 10.0)
    assert standstill.active(1.001 + UNREAD_S)
    reading[0] = None
    assert not standstill.active(1.002 + 2 * UNREAD_S)
    assert standstill.left_ms(2.0, 2.5) == 500.0


@pytest.mark.parametrize("beside", [0.0, 0.5])
def test_a_stop_is_not_a_slowdown(beside: float) -> None:
    """learn() returns the time in which the run was stopped, by the CPU time that it took: also of one that is short
    of, or longer than, what was expected."""
    group = Group(beside=beside)
    standstill, _, _ = learned(group)
    for work_s in (0.012, 0.010, 0.014):
        started_s = group.phase_s + (max(group.used_s) + 2) * group.period_s + 0.001
        group.now_s = started_s
        assert standstill.active(started_s)
        ended_s = group.run(started_s, work_s)
        stopped_ms = (ended_s - started_s - work_s) * 1e3
        assert standstill.learn(started_s, ended_s, 12.0) == pytest.approx(stopped_ms, abs=0.5)


def test_the_time_between_two_runs_leaves_out_the_stop() -> None:
    """Of 12 ms between two runs CPU time passed in 2."""
    group = Group()
    standstill, _, _ = learned(group)
    ended_s = group.phase_s + (max(group.used_s) + 2) * group.period_s + 0.008
    group.now_s = ended_s
    standstill.active(ended_s)
    group.used_s[max(group.used_s) + 2] = 0.002
    group.now_s = ended_s + 0.012
    standstill.active(ended_s + 0.012)
    assert standstill.working_ms(ended_s, ended_s + 0.012) == pytest.approx(2.0, abs=0.1)
    assert Standstill(lambda: None).working_ms(1.0, 1.012) == pytest.approx(12.0)


def test_without_a_quota_nothing_is_a_stop() -> None:
    """A machine without a quota: long runs are a slowdown, and the sensor is asked now and then."""
    asked = []
    standstill = Standstill(lambda: asked.append(1))
    for i in range(1000):
        assert standstill.learn(i * 0.001, i * 0.001 + 0.05, 2.0) == 0.0
        assert not standstill.active(i * 0.001 + 0.05)
    assert len(asked) <= 1.05 / UNREAD_S + 2
    assert standstill.left_ms(0.0, 0.5) == 500.0
    assert standstill.wall_ms(0.0, 7.0) == 7.0


def test_a_quota_that_stops_nothing_is_no_reason() -> None:
    """A co-runner slows runs down under a quota that is not used up: the counter stands still."""
    standstill = Standstill(lambda: QuotaReading(100.0, 50.0, 0.0, 7))
    assert standstill.active(0.0)
    assert standstill.learn(0.0, 0.05, 2.0) == 0.0


def test_what_others_leave_is_forgotten() -> None:
    """Where they have gone and nothing is stopped any more, the whole quota is ours again."""
    group = Group(others=0.6, tells=False)
    standstill, _, _ = learned(group)
    assert standstill.share < 0.45
    group.others = 0.0
    now_s = group.phase_s + (max(group.used_s) + BELIEVED_PERIODS + 2) * group.period_s
    assert standstill.active(now_s)
    assert standstill.share == pytest.approx(0.5, abs=0.02)


def test_another_period() -> None:
    """Where the quota is set anew, the old phase is forgotten."""
    group = Group()
    standstill, _, _ = learned(group)
    group.period_s, group.quota_s, group.phase_s = 0.1, 0.04, 0.033
    group.used_s.clear()
    now_s = 100.0
    for _ in range(100):
        ended_s = group.run(now_s, 0.003)
        standstill.learn(now_s, ended_s, 3.0)
        now_s = ended_s
    assert standstill.active(now_s)
    assert standstill.share == pytest.approx(0.4, abs=0.03)


READINGS = st.one_of(
    st.none(),
    st.builds(
        QuotaReading,
        st.sampled_from([20.0, 100.0]),
        st.floats(0.1, 250.0),
        st.floats(0.0, 1e6),
        st.none() | st.integers(0, 9),
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(READINGS, st.floats(0.0, 0.2), st.floats(0.0, 0.3), st.floats(0.0, 50.0)), max_size=20))
def test_no_reading_breaks_it(turns: list[tuple[QuotaReading | None, float, float, float]]) -> None:
    """Counters that fall, as in another cgroup, quotas that change at each reading: times stay times."""
    reading: QuotaReading | None = None
    standstill, now_s = Standstill(lambda: reading), 100.0
    for reading, pause_s, wall_s, expected_ms in turns:  # noqa: B007 -- the sensor returns it
        now_s += pause_s
        standstill.active(now_s)
        assert 0.0 <= standstill.learn(now_s, now_s + wall_s, expected_ms) <= wall_s * 1e3 + 1e-9
        now_s += wall_s
        assert 0.0 < standstill.share <= 1.0
        assert 0.0 <= standstill.left_ms(now_s, now_s + 0.05) <= 50.0 + 1e-9
        assert 5.0 <= standstill.wall_ms(now_s, 5.0) < 1e6
        assert 0.0 <= standstill.working_ms(now_s - wall_s, now_s) <= wall_s * 1e3 + 1e-9
        assert standstill.refill_ms(now_s) >= 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.floats(0.0, 0.2), st.floats(0.1, 100.0))
def test_left_is_the_inverse_of_wall(seed: int, offset_s: float, run_ms: float) -> None:
    """A run of some length ends when so much time was left for runs, and not before."""
    standstill, _, _ = LEARNED[seed]
    now_s = 5.0 + offset_s
    wall_ms = standstill.wall_ms(now_s, run_ms)
    assert wall_ms >= run_ms
    assert standstill.left_ms(now_s, now_s + wall_ms / 1e3) == pytest.approx(run_ms, abs=1e-6)


LEARNED = [learned(Group(others=0.2 * (seed % 2), tells=seed < 2), seed) for seed in range(4)]
