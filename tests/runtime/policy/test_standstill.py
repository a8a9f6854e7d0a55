"""Standstill: the phase and the onset of a CPU quota, learned from runs on groups of processes that are stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nested_sparse.runtime.policy.standstill import BELIEVED_PERIODS, Standstill
from nested_sparse.runtime.resources import QuotaReading


@dataclass
class Group:
    """A group of processes with a quota of `quota_s` each `period_s`, from `phase_s` on, as the kernel keeps it.

    others: cores that the rest of the group uses all the time. stops: periods so far in which the quota was used up.
    """

    quota_s: float = 0.010
    period_s: float = 0.020
    phase_s: float = 0.0037
    others: float = 0.0
    stops: int = 0
    used_s: dict[int, float] = field(default_factory=dict)

    def run(self, start_s: float, work_s: float) -> float:
        """The end of a run of one thread that begins at `start_s`."""
        now_s = start_s
        while True:
            period = int((now_s - self.phase_s) // self.period_s)
            refill_s = self.phase_s + period * self.period_s
            next_s = refill_s + self.period_s
            own_s = self.used_s.get(period, 0.0)
            left_s = self.quota_s - own_s - self.others * (now_s - refill_s)
            room_s = min(max(left_s, 0.0) / (1.0 + self.others), next_s - now_s)
            if work_s <= room_s:
                self.used_s[period] = own_s + work_s
                return now_s + work_s
            self.used_s[period] = own_s + room_s
            self.stops += room_s < next_s - now_s
            work_s -= room_s
            now_s = next_s + 1e-9

    def reading(self) -> QuotaReading:
        """As the sensor."""
        return QuotaReading(self.period_s * 1e3, self.stops)


def learned(group: Group, seed: int = 0, runs: int = 300) -> tuple[Standstill, list[float], list[float]]:
    """A standstill after runs of 1 to 4 ms with short pauses; the errors of its predictions in the second half, in ms,
    and those of predictions that know no quota."""
    rng = np.random.default_rng(seed)
    standstill = Standstill(group.reading)
    now_s, errors, blind = 1.0, [], []
    for i in range(runs):
        now_s += float(rng.exponential(0.001))
        work_s = float(rng.choice([0.001, 0.002, 0.004]))
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
        (lambda: Group(others=0.6), 0.65),
        (lambda: Group(quota_s=0.05, period_s=0.1, phase_s=0.0612), 0.25),
        (lambda: Group(quota_s=0.05, period_s=0.1, others=0.5), 0.65),
    ],
    ids=["alone", "beside others", "100 ms", "100 ms beside others"],
)
def test_predicts_standstills(group: Callable[[], Group], share: float) -> None:
    """The ends of runs are known to a fraction of the error without it, best where the quota is ours alone."""
    standstill, errors, blind = learned(group())
    assert np.mean(errors) < share * np.mean(blind)
    assert np.median(errors) < 0.2
    assert 0.2 < standstill.share < 0.9


def test_a_stop_is_not_a_slowdown() -> None:
    """learn() returns the time in which the run was stopped, to within the scatter of the run."""
    group = Group()
    standstill, _, _ = learned(group)
    now_s = group.phase_s + 1000 * group.period_s
    ended_s = group.run(now_s, 0.012)
    assert ended_s - now_s == pytest.approx(0.022, abs=1e-4)
    standstill.learn(now_s, group.run(ended_s, 0.002), 2.0)
    started_s = now_s + 2 * group.period_s + 0.001
    ended_s = group.run(started_s, 0.012)
    assert standstill.learn(started_s, ended_s, 12.0) == pytest.approx((ended_s - started_s) * 1e3 - 12.0)


def test_without_a_quota_nothing_is_a_stop() -> None:
    """A machine without a quota: long runs are a slowdown, and the sensor is asked once a second at most."""
    asked = []
    standstill = Standstill(lambda: asked.append(1))
    for i in range(100):
        assert standstill.learn(i * 0.1, i * 0.1 + 0.05, 2.0) == 0.0
        assert not standstill.active(i * 0.1 + 0.05)
    assert len(asked) <= 12
    assert standstill.left_ms(0.0, 0.5) == 500.0
    assert standstill.wall_ms(0.0, 7.0) == 7.0


def test_a_quota_that_stops_nothing_is_no_reason() -> None:
    """A co-runner slows runs down under a quota that is not used up: the counter stands still."""
    standstill = Standstill(lambda: QuotaReading(100.0, 7))
    assert standstill.learn(0.0, 0.05, 2.0) == 0.0
    assert not standstill.active(0.05)


def test_a_quota_that_is_lifted() -> None:
    """A run that should have been stopped and was not ends it; so does a while without any run."""
    for runs in (True, False):
        group = Group()
        standstill, _, _ = learned(group)
        now_s = group.phase_s + 2000 * group.period_s
        standstill.learn(now_s, now_s + 0.001, 1.0)
        last_s = max(group.used_s) * group.period_s
        assert standstill.active(last_s)
        if runs:
            start_s = group.phase_s + (max(group.used_s) + 2) * group.period_s
            standstill.learn(start_s, start_s + 0.019, 19.0)
            assert not standstill.active(start_s + 0.019)
        else:
            assert not standstill.active(last_s + (BELIEVED_PERIODS + 2) * group.period_s)


def test_a_quota_that_stops_us_no_more() -> None:
    """It was raised: the count of stops rests for a period. While it grows, the stop is still to be expected."""
    reading = [QuotaReading(100.0, 0)]
    standstill = Standstill(lambda: reading[0])
    for period in range(4):
        reading[0] = QuotaReading(100.0, period + 1)
        standstill.learn(period / 10 + 0.003, (period + 1) / 10 + 0.001, 5.0)
    assert standstill.active(0.45)
    assert not standstill.is_over(0.45)
    assert not standstill.is_over(0.46)
    reading[0] = QuotaReading(100.0, 5)
    assert not standstill.is_over(0.56)
    assert standstill.is_over(0.67)
    assert standstill.left_ms(0.67, 0.77) == pytest.approx(100.0)


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


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.floats(0.0, 0.2), st.floats(0.1, 100.0))
def test_left_is_the_inverse_of_wall(seed: int, offset_s: float, run_ms: float) -> None:
    """A run of some length ends when so much time was left for runs, and not before."""
    standstill, _, _ = LEARNED[seed]
    now_s = 5.0 + offset_s
    wall_ms = standstill.wall_ms(now_s, run_ms)
    assert wall_ms >= run_ms
    assert standstill.left_ms(now_s, now_s + wall_ms / 1e3) == pytest.approx(run_ms, abs=1e-6)


LEARNED = [learned(Group(others=0.2 * (seed % 2)), seed) for seed in range(4)]
