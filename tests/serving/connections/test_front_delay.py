"""FrontDelay: one server in virtual time, before which calls wait in line, unseen until their turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from nested_sparse.serving.connections.front_delay import CALLS_PER_PROBE, Entry, FrontDelay

SLO_MS = 20.0
ANSWER_S, REFUSAL_S, PROBE_S = 0.0008, 0.00016, 0.0002
"""The loop's work for each call: a refusal costs a fifth of an answer."""


@dataclass(frozen=True)
class Call:
    """The outcome of a call: its true wait, its estimated wait, and the time of its answer (None: refused)."""

    arrived_s: float
    true_wait_s: float
    entry: Entry
    answered_s: float | None

    @property
    def in_time(self) -> bool:
        return self.answered_s is not None and self.answered_s - self.arrived_s <= SLO_MS / 1e3


class Door:
    """The loop: takes in what came first, a call or the probe, and works on it before it looks again."""

    def __init__(self, delay: FrontDelay, *, stalls: dict[int, float] | None = None, probes: bool = True) -> None:
        self.delay = delay
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
            begin_s = self._now_s = max(self._now_s, float(arrived_s))
            self._now_s += self._stalls.get(number, 0.0)
            self.delay.stood_still(begin_s, self._now_s)
            if self._probes and self.delay.probe_due(self._now_s):
                self._probe_s = self._now_s
                self.delay.probe_sent(self._now_s)
            entry = (enter or self.delay.enter)(self._now_s)
            waited_s = self._now_s - arrived_s
            self._now_s += REFUSAL_S if entry.refused else ANSWER_S
            calls.append(Call(arrived_s, waited_s, entry, None if entry.refused else self._now_s))
        return calls

    def _pass_probe(self) -> None:
        assert self._probe_s is not None
        self._now_s = max(self._now_s, self._probe_s)
        self.delay.probe_arrived(self._now_s)
        self._now_s += PROBE_S
        self._probe_s = None
        self.probe_count += 1


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
