"""FrontDelay: one server in virtual time, before which calls wait in line, unseen until their turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from nested_sparse.serving.connections.front_delay import CALLS_PER_PROBE, Entry, FrontDelay

SLO_MS = 20.0
ANSWER_S, REFUSAL_S, PROBE_S = 0.0008, 0.00016, 0.0002
"""The loop's work for each call: a refusal costs a fifth of an answer."""
PERIOD_S = 0.1


@dataclass(frozen=True)
class Call:
    """The outcome of a call: its true wait, its estimated wait, and the time of its answer (None: refused)."""

    arrived_s: float
    true_wait_s: float
    entry: Entry
    answered_s: float | None

    @property
    def in_time(self) -> bool:
        return self.took_at_most(SLO_MS)

    def took_at_most(self, slo_ms: float) -> bool:
        return self.answered_s is not None and self.answered_s - self.arrived_s <= slo_ms / 1e3


class Door:
    """The loop: takes in what came first, a call or the probe, and works on it before it looks again.

    standstill_s: the last seconds of each PERIOD_S, in which a quota stops the loop.
    """

    def __init__(
        self,
        delay: FrontDelay,
        *,
        stalls: dict[int, float] | None = None,
        probes: bool = True,
        standstill_s: float = 0.0,
    ) -> None:
        self.delay = delay
        self._standstill_s = standstill_s
        self.probe_count = 0
        self._stalls = stalls or {}
        self._probes = probes
        self._probe_s: float | None = None
        self._now_s = 0.0

    def run(self, arrivals_s: np.ndarray, enter: Callable[[float], Entry] | None = None) -> list[Call]:
        """`stalls`: seconds that the loop stands still before it takes in the call of that number."""
        calls = []
        for number, arrived_s in enumerate(arrivals_s):
            while self._probe_s is not None and self._probe_s <= arrived_s:
                self._pass_probe()
            self._rest_until(float(arrived_s))
            begin_s = self._now_s
            self._now_s += self._stalls.get(number, 0.0)
            self.delay.stood_still(begin_s, self._now_s)
            if self._probes and self.delay.probe_due(self._now_s):
                self._probe_s = self._now_s
                self.delay.probe_sent(self._now_s)
            entry = (enter or self.delay.enter)(self._now_s)
            waited_s = self._now_s - arrived_s
            self._work(REFUSAL_S if entry.refused else ANSWER_S)
            calls.append(Call(arrived_s, waited_s, entry, None if entry.refused else self._now_s))
        return calls

    def _pass_probe(self) -> None:
        assert self._probe_s is not None
        self._rest_until(self._probe_s)
        self.delay.probe_arrived(self._now_s)
        self._work(PROBE_S)
        self._probe_s = None
        self.probe_count += 1

    def _rest_until(self, until_s: float) -> None:
        while self._now_s < until_s:
            if until_s < self._stop_s:
                self._now_s = until_s
            else:
                self._stand_still()

    def _work(self, work_s: float) -> None:
        while self._now_s + work_s >= self._stop_s:
            work_s -= self._stop_s - self._now_s
            self._stand_still()
        self._now_s += work_s

    @property
    def _stop_s(self) -> float:
        """When the next standstill begins."""
        if not self._standstill_s:
            return math.inf
        return (math.floor(self._now_s / PERIOD_S + 1e-9) + 1) * PERIOD_S - self._standstill_s

    def _stand_still(self) -> None:
        began_s = self._stop_s
        self._now_s = began_s + self._standstill_s
        self.delay.stood_still(began_s, self._now_s, self._standstill_s)


def poisson(rate_per_s: float, duration_s: float, seed: int = 0) -> np.ndarray:
    gaps_s = np.random.default_rng(seed).exponential(1 / rate_per_s, round(rate_per_s * duration_s))
    return np.cumsum(gaps_s)


@pytest.mark.parametrize("load", [1.2, 1.5, 2.0])
def test_calls_taken_in_under_overload_are_answered_in_time(load: float) -> None:
    """99 % of it, and nearly as much as a loop could answer that refuses at this price and knows the future."""
    duration_s = 20.0
    calls = Door(FrontDelay(SLO_MS)).run(poisson(load / ANSWER_S, duration_s))
    answered = [call for call in calls if call.answered_s is not None]
    assert sum(call.in_time for call in answered) >= 0.99 * len(answered)
    price = REFUSAL_S / ANSWER_S
    best = (1 - load * price) / (1 - price) * duration_s / ANSWER_S
    assert len(answered) >= 0.9 * best


def test_without_it_every_answer_is_late() -> None:
    """The same door, as it was: each call is taken to have come just now."""
    calls = Door(FrontDelay(SLO_MS)).run(poisson(1.5 / ANSWER_S, 20.0), lambda _: Entry(0.0, False))
    assert sum(call.in_time for call in calls) < 0.01 * len(calls)


def test_below_capacity_hardly_anything_is_refused() -> None:
    """At 70 % of what the loop can do; and probes take less than 2 % of its time."""
    door = Door(FrontDelay(SLO_MS))
    calls = door.run(poisson(0.7 / ANSWER_S, 20.0))
    assert sum(call.entry.refused for call in calls) <= 0.01 * len(calls)
    assert door.probe_count * PROBE_S < 0.02 * 20.0


@pytest.mark.parametrize("load", [0.5, 1.0, 1.5])
def test_the_wait_is_known_to_within_a_share_of_the_slo(load: float) -> None:
    """The estimated wait of a call, compared with its true wait."""
    calls = Door(FrontDelay(SLO_MS)).run(poisson(load / ANSWER_S, 10.0))[200:]
    errors_ms = 1e3 * np.array([call.entry.wait_s - call.true_wait_s for call in calls])
    assert np.quantile(np.abs(errors_ms), 0.9) < 0.4 * SLO_MS
    assert abs(errors_ms.mean()) < 0.1 * SLO_MS


def test_a_loop_that_stood_still_knows_it_without_a_probe() -> None:
    """200 ms in which nothing could be sent: of what had gathered meanwhile nothing is answered late."""
    calls = Door(FrontDelay(SLO_MS), stalls={500: 0.2}).run(poisson(0.7 / ANSWER_S, 2.0))
    gathered = [call for call in calls[500:] if call.true_wait_s > SLO_MS / 1e3]
    assert len(gathered) > 100
    assert sum(call.answered_s is not None for call in gathered) <= 2
    late = [call for call in calls if call.answered_s is not None and not call.in_time]
    assert len(late) <= 2
    assert sum(call.entry.refused for call in calls[-200:]) <= 4


def test_one_long_wait_is_not_held_against_those_that_come_later() -> None:
    """After a pause of one second, the calls that waited are refused, and soon no further ones."""
    delay = FrontDelay(SLO_MS)
    delay.stood_still(9.0, 10.0)
    assert delay.enter(10.0) == Entry(pytest.approx(1.0), refused=True)
    delay.probe_sent(10.0)
    delay.probe_arrived(10.0005)
    assert not any(delay.enter(10.001 + 0.001 * number).refused for number in range(100))


@pytest.mark.parametrize(("slo_ms", "standstill_s"), [(150.0, 0.06), (80.0, 0.05), (150.0, 0.08)])
def test_the_standstills_of_a_quota_are_no_overload(slo_ms: float, standstill_s: float) -> None:
    """At 60 % of the time that the quota leaves: hardly a call is refused, though each standstill is a long wait."""
    rate_per_s = 0.6 / ANSWER_S * (1 - standstill_s / PERIOD_S)
    calls = Door(FrontDelay(slo_ms), standstill_s=standstill_s).run(poisson(rate_per_s, 20.0))
    assert sum(call.true_wait_s > standstill_s / 2 for call in calls) > 0.1 * len(calls)
    assert sum(call.entry.refused for call in calls) <= 0.01 * len(calls)
    assert sum(call.entry.wait_s < call.true_wait_s - 0.35 * slo_ms / 1e3 for call in calls) == 0


@pytest.mark.parametrize(("slo_ms", "standstill_s"), [(150.0, 0.06), (80.0, 0.05), (150.0, 0.08)])
def test_overload_beside_a_quota_is_refused(slo_ms: float, standstill_s: float) -> None:
    """At 1.5 times what the quota leaves: what is taken in is in time, and nearly as much as can be."""
    duration_s, running_share = 20.0, 1 - standstill_s / PERIOD_S
    rate_per_s = 1.5 / ANSWER_S * running_share
    calls = Door(FrontDelay(slo_ms), standstill_s=standstill_s).run(poisson(rate_per_s, duration_s))
    answered = [call for call in calls if call.answered_s is not None]
    price = REFUSAL_S / ANSWER_S
    best = (1 - 1.5 * price) / (1 - price) * duration_s / ANSWER_S * running_share
    assert sum(call.took_at_most(slo_ms) for call in answered) >= 0.95 * len(answered)
    assert len(answered) >= 0.85 * best


def test_a_standstill_longer_than_the_promise() -> None:
    """Of what has gathered in it, the calls that are late in any case are refused at once."""
    delay = FrontDelay(SLO_MS)
    delay.stood_still(9.0, 9.05, 0.05)
    assert delay.enter(9.05) == Entry(pytest.approx(0.05), refused=True)
    delay.probe_sent(9.051)
    delay.probe_arrived(9.0512)
    assert delay.enter(9.0513) == Entry(pytest.approx(0.0002), refused=False)


def test_a_probe_that_was_stopped_on_its_way() -> None:
    """Calls that came during the standstill are behind it: they have waited since, until another probe arrives."""
    delay = FrontDelay(100.0)
    delay.probe_sent(10.0)
    delay.stood_still(10.002, 10.062, 0.06)
    delay.probe_arrived(10.063)
    assert delay.enter(10.064) == Entry(pytest.approx(0.064), refused=False)
    assert delay.queued_s(10.064) == pytest.approx(0.003)
    assert delay.probe_due(10.064)
    delay.probe_sent(10.064)
    delay.probe_arrived(10.065)
    assert delay.wait_s(10.066) == pytest.approx(0.001)
    assert not delay.waits


def test_an_idle_server_sends_no_probe() -> None:
    """A short row of requests causes no probe either."""
    delay = FrontDelay(SLO_MS)
    for number in range(CALLS_PER_PROBE - 1):
        assert not delay.probe_due(number * 60.0)
        delay.enter(number * 60.0)
    assert not delay.probe_due(1e6)
    assert not delay.waits


def test_a_lost_probe_refuses_no_calls() -> None:
    """One that has been under way for long says so while it may still come; once it has ended nothing is known."""
    delay = FrontDelay(SLO_MS)
    delay.probe_sent(10.0)
    assert delay.enter(10.1) == Entry(pytest.approx(0.1), refused=True)
    assert not delay.probe_due(20.0)
    delay.probe_ended()
    assert delay.enter(20.0) == Entry(0.0, refused=False)
    delay.probe_sent(21.0)
    delay.probe_arrived(21.004)
    delay.probe_ended()
    assert delay.wait_s(21.1) == pytest.approx(0.004)


def test_a_long_wait_is_looked_at_again_without_requests() -> None:
    """Calls are no longer refused when the front has been empty for long."""
    delay = FrontDelay(SLO_MS)
    delay.probe_sent(10.0)
    delay.probe_arrived(10.015)
    assert delay.waits
    assert delay.probe_due(10.02)
    delay.probe_sent(10.02)
    delay.probe_arrived(10.0201)
    assert not delay.waits
    assert not delay.enter(10.021).refused
